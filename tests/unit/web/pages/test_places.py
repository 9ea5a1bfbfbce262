"""Where items were made is seen on a map of the Earth, whose circles are links, without scripts."""

from __future__ import annotations

import itertools
import math
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.conftest import Page, Visitor
from tests.unit.web.pictures import picture
from tests.unit.web.test_item_changes import added

from retllm_web.actions import item_facets, item_lists
from retllm_web.actions.places import MAX_ZOOM, Cluster, Window
from retllm_web.pages import places as drawing

# latitude and longitude: three in Rome, close to each other; two at one point of Fiji; one in Genoa, one at each end
PLACES = [
    *((41.89, 12.49), (41.90, 12.50), (41.90, 12.51)),
    *((-17.7, 178.0), (-17.7, 178.0), (44.4, 8.9)),
    *((90.0, 180.0), (-90.0, -180.0)),
]


@pytest.fixture
def located(ada: Caller, birds: str) -> dict[str, str]:
    """Pictures with these positions, and one without; the keys by name."""
    keys = {f"{n}.png": added(ada, birds, (f"{n}.png", picture(f"rgb({n}, 9, 9)"))) for n in range(len(PLACES))}
    for key, (latitude, longitude) in zip(keys.values(), PLACES, strict=True):
        position = {"latitude": latitude, "longitude": longitude}
        assert ada.patch(f"/items/{key}", json={"position": position}).status_code == 200
    added(ada, birds, ("nowhere.png", picture("white")))
    return keys


def clusters(caller: Caller, collection: str, **query: Any) -> list[dict[str, Any]]:
    answer = caller.get(f"/collections/{collection}/places", query_string=query)
    assert answer.status_code == 200, answer.json
    assert answer.json["is_exact"] is True
    return list(answer.json["clusters"])


def marks(page: Page) -> dict[str, str]:
    """The addresses of the circles by their labels."""
    found = page.all("a", class_="places-mark")
    return {str(one.attributes["aria-label"]): str(one.attributes["href"]) for one in found}


def apart(page: Page) -> float:
    """How far the two nearest circles are from each other, in units of the picture."""
    found = [one.attributes for one in page.all("circle", class_="places-dot")]
    places = [(float(str(one["cx"])), float(str(one["cy"]))) for one in found]
    return min(math.dist(one, other) for one, other in itertools.combinations(places, 2))


def shown(page: Page) -> set[str]:
    """The items of a gallery."""
    return {str(box.attributes["value"]) for box in page.all("input", class_="tile-check")}


def test_every_item_with_a_position_is_in_one_cluster_at_every_zoom(
    ada: Caller, birds: str, located: dict[str, str]
) -> None:
    assert sorted(one["count"] for one in clusters(ada, birds)) == [1, 1, 2, 4]
    near = {"latitude": 41.9, "longitude": 12.5}
    counts = [[one["count"] for one in clusters(ada, birds, zoom=zoom, **near)] for zoom in (4, 6, 10, 12)]
    assert [sum(some) for some in counts] == [4, 3, 3, 3]
    assert len(counts[2]) > 1, "a closer look divides them"


def test_a_circle_with_few_items_leads_to_exactly_these(reader: Visitor, birds: str, located: dict[str, str]) -> None:
    page = reader.get(f"/collections/{birds}/places")
    assert "8 items with a position." in page.text
    found = {label: shown(reader.get(address)) for label, address in marks(page).items()}
    assert sorted(map(len, found.values())) == [1, 1, 2, 4]
    assert set().union(*found.values()) == set(located.values())
    assert {located["3.png"], located["4.png"]} in found.values()
    assert "1 item near 90.00° N, 180.00° E: open in the gallery" in found


def test_circles_do_not_overlap_and_are_a_list_too(
    reader: Visitor, ada: Caller, birds: str, located: dict[str, str]
) -> None:
    # on the equator, in the cell beside that of Rome, and as near to it as can be
    for number, latitude in enumerate((22.49, 22.51, 0.0, -0.01)):
        key = added(ada, birds, (f"near {number}.png", picture(f"rgb(9, 9, {number})")))
        change = {"position": {"latitude": latitude, "longitude": 12.5}}
        assert ada.patch(f"/items/{key}", json=change).status_code == 200
    page = reader.get(f"/collections/{birds}/places")
    assert apart(page) >= 2 * 17
    links = [link for link in page.all("a") if " near " in link.text and "aria-label" not in link.attributes]
    listed = {link.text: link.attributes["href"] for link in links}
    assert listed == marks(page)


def test_a_circle_with_many_items_leads_to_a_closer_look_at_all_of_them(
    reader: Visitor, birds: str, located: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "_FEW", 1)
    page = reader.get(f"/collections/{birds}/places")
    seen = 0
    while zooming := {label: address for label, address in marks(page).items() if "zoom in" in label}:
        ((label, address),) = zooming.items()
        zoom = int(parse_qs(urlsplit(address).query)["zoom"][0])
        page = reader.get(address)
        inside = sum(int(one.split(" ")[0]) for one in marks(page))
        assert inside == int(label.split(" ")[0]), f"zoom {zoom} loses some"
        seen += 1
        if seen > MAX_ZOOM:
            pytest.fail("it does not end")
        # the two at one point are not divided
        if "zoom in" not in "".join(marks(page)):
            break
    assert seen >= 2
    page = reader.get(f"/collections/{birds}/places")
    (same,) = (address for label, address in marks(page).items() if label.startswith("2 items"))
    assert shown(reader.get(same)) == {located["3.png"], located["4.png"]}


def test_the_links_around_the_map_move_and_zoom_it(reader: Visitor, birds: str, located: dict[str, str]) -> None:
    reader.get(f"/collections/{birds}/places")

    def go(label: str) -> Page:
        assert reader.page is not None
        (link,) = (one for one in reader.page.all("a") if label in (one.attributes.get("aria-label"), one.text))
        return reader.get(str(link.attributes["href"]))

    assert "in this part of the map" in go("Zoom in").text
    go("Zoom in")
    before = set(marks(go("North")))
    assert set(marks(go("West"))) != before
    assert set(marks(go("East"))) == before
    go("South")
    go("Zoom out")
    assert "8 items with a position" in go("Whole Earth").text
    gallery = go("Open all in the gallery")
    assert shown(gallery) == set(located.values())


def test_the_filter_of_the_address_limits_what_is_shown(
    reader: Visitor, ada: Caller, birds: str, located: dict[str, str]
) -> None:
    ada.patch(f"/items/{located['0.png']}", json={"camera": "X100"})
    page = reader.get(f"/collections/{birds}/places?filter=camera+%3D+X100")
    assert "1 item with a position." in page.text
    (address,) = marks(page).values()
    assert shown(reader.get(address)) == {located["0.png"]}
    assert len(clusters(ada, birds, filter="camera = X100")) == 1
    page = reader.get(f"/collections/{birds}/places?filter=camera+%3D")
    assert "The filter can't be read at its end" in page.text
    assert "No items with a position match this filter" in reader.get(f"/collections/{birds}/places?q=none").text


@pytest.mark.parametrize(
    "query", ["zoom=x&latitude=nan&longitude=inf", "zoom=-3", "zoom=99&latitude=1e300", "zoom=1e9"]
)
def test_an_address_with_nonsense_shows_some_part_of_the_earth(
    reader: Visitor, birds: str, located: dict[str, str], query: str
) -> None:
    page = reader.get(f"/collections/{birds}/places?{query}")
    assert page.status == 200
    assert page.all("svg", class_="places-map")


def test_of_too_many_items_the_first_ones_are_counted(
    reader: Visitor, birds: str, located: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_facets, "_COUNTABLE", -1.0)
    monkeypatch.setattr(item_lists, "MAX_COMPARED", 5)
    page = reader.get(f"/collections/{birds}/places")
    assert "At least 5 items with a position. Too many to count them all: only the first 5 items" in page.text


numbers = st.floats(-1e6, 1e6)


@given(zoom=st.integers(-3, 30), latitude=numbers, longitude=numbers)
def test_a_window_is_a_part_of_the_earth(zoom: int, latitude: float, longitude: float) -> None:
    window = Window.at(zoom, latitude, longitude)
    assert window.south >= -90.000001
    assert window.north <= 90.000001
    assert window.west >= -180.000001
    assert window.east <= 180.000001


@given(
    places=st.lists(st.tuples(st.floats(-90, 90), st.floats(-180, 180)), min_size=1, max_size=5),
    zoom=st.integers(0, MAX_ZOOM - 1),
)
def test_the_window_of_a_cluster_has_all_of_it(places: list[tuple[float, float]], zoom: int) -> None:
    window = Window.at(zoom, *places[0])
    inside = [
        (latitude, longitude)
        for latitude, longitude in places
        if abs(latitude - window.latitude) <= window.height / 4
        and abs(longitude - window.longitude) <= window.width / 4
    ] or [(window.latitude, window.longitude)]
    latitudes, longitudes = zip(*inside, strict=True)
    ends = (min(latitudes), min(longitudes), max(latitudes), max(longitudes))
    closer = Cluster(len(inside), 0, 0, *ends, item_id=None).window(zoom)
    assert closer.zoom > zoom
    assert closer.south <= ends[0] + 1e-6
    assert closer.west <= ends[1] + 1e-6
    assert closer.north >= ends[2] - 1e-6
    assert closer.east >= ends[3] - 1e-6


@given(zoom=st.integers(0, MAX_ZOOM), latitude=st.floats(-89, 89))
def test_the_scale_is_a_round_length_that_fits(zoom: int, latitude: float) -> None:
    window = Window.at(zoom, latitude, 0)
    scale = drawing._scale(window)
    number, unit = scale.label.replace(",", "").split(" ")
    metres = float(number) * (1000 if unit == "km" else 1)
    assert number.rstrip("0") in ("1", "2", "5")
    assert drawing.WIDTH / 4 * 0.35 <= scale.length <= drawing.WIDTH / 4
    expected = metres / (window.width * 111_320 * math.cos(math.radians(window.latitude))) * drawing.WIDTH
    assert scale.length == pytest.approx(expected, abs=0.1)
