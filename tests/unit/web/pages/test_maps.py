"""The map of a collection is read, coloured, narrowed down and made without scripts."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

from tests.unit.web.conftest import Caller, start_session
from tests.unit.web.pages.conftest import Page, Visitor
from tests.unit.web.test_item_changes import added
from tests.unit.web.test_maps import birds_on_map, listed

from retllm.db.jobs import Job
from retllm.db.session import transaction
from retllm_web.http.services import Services

__all__ = ["birds_on_map"]


def dots(page: Page) -> int:
    """How many points the picture has."""
    return sum(str(path.attributes["d"]).count("h0") for path in page.all("path", class_="map-dots"))


def legend(page: Page) -> dict[str, str]:
    """The addresses behind the lines of the legend, by their words."""
    (start,) = (number for number, one in enumerate(page.elements) if one.attributes.get("id") == "legend-title")
    links = [
        one for one in page.elements[start:] if one.tag == "a" and one.attributes.get("title") == "Show these only"
    ]
    return {link.text.split(" ")[0]: str(link.attributes["href"]) for link in links}


def test_the_collection_leads_to_its_map_and_that_to_the_job(
    reader: Visitor, ada: Caller, birds: str, birds_on_map: dict[str, str], served: Services
) -> None:
    with transaction(served.sessions) as session:
        session.query(Job).delete()
    address = f"/collections/{birds}/map"
    page = reader.get(f"/collections/{birds}?filter=camera+%3D+M6")
    assert f"{address}?filter=camera+%3D+M6" in [link.attributes.get("href") for link in page.all("a")]
    reader.get(address)
    page = reader.send(address)
    assert page.path.startswith("/jobs/")
    assert page.one("h1").text == "Map"
    assert "Laying out" in page.text
    assert address in [link.attributes.get("href") for link in page.all("a")]


def test_a_collection_without_a_map_says_so(reader: Visitor, ada: Caller, birds: str) -> None:
    added(ada, birds, ("a.txt", b"a text"))
    page = reader.get(f"/collections/{birds}/map")
    assert "There is no map yet" in page.text
    assert not page.all("svg", class_="map-picture")
    page = reader.send(f"/collections/{birds}/map")
    assert [e.text for e in page.all("div", class_="alert")] == [
        "No item of the collection is indexed yet: a map is made of the vectors of indexed items."
    ]


def test_the_picture_has_a_dot_for_each_item_and_a_legend_whose_lines_narrow_it_down(
    reader: Visitor, birds: str, birds_on_map: dict[str, str]
) -> None:
    page = reader.get(f"/collections/{birds}/map?colour=camera")
    assert (dots(page), len(page.all("path", class_="map-dots"))) == (6, 4)
    assert page.one("svg", class_="map-picture").attributes["aria-label"] == "Map of 6 items, coloured by camera"
    lines = legend(page)
    assert sorted(line.lower() for line in lines) == ["f3", "m6", "not", "x100"]
    page = reader.get(next(address for line, address in lines.items() if line.lower() == "x100"))
    assert dots(page) == 3
    page = reader.get(lines["not"])
    assert dots(page) == 1
    (chip,) = (link for link in page.all("a") if "remove" in link.text)
    assert dots(reader.get(str(chip.attributes["href"]))) == 6


def test_its_squares_lead_to_their_items_in_the_gallery(
    reader: Visitor, ada: Caller, birds: str, birds_on_map: dict[str, str]
) -> None:
    page = reader.get(f"/collections/{birds}/map?filter=camera+%3D+X100")
    areas = [link for link in page.all("a") if re.match(r"[A-F][1-6] 1 item", link.text)]
    found = listed(ada, birds, filter="camera = X100")
    # the six items are on the diagonal of the map, 20 from each other
    diagonal = ("A1", "B2", "C3", "D4", "E5", "F6")
    assert [link.text.split()[0] for link in areas] == [diagonal[round(x / 20)] for x in sorted(found["x"])]
    shown = set()
    for link in areas:
        gallery = reader.get(str(link.attributes["href"]))
        (box,) = gallery.all("input", class_="tile-check")
        shown.add(box.attributes["value"])
    assert shown == set(found["ids"])


def test_the_actions_on_a_selection_are_those_of_the_gallery(
    reader: Visitor, ada: Caller, birds: str, birds_on_map: dict[str, str]
) -> None:
    page = reader.get(f"/collections/{birds}/map?filter=camera+%3D+X100&kind=image")
    found = listed(ada, birds, filter="camera = X100")
    inside = sorted(zip(found["x"], found["ids"], strict=True))[:2]
    area = f"map within (0.00, 0.00, {inside[-1][0]:.2f}, {inside[-1][0]:.2f})"
    selection = next(e.attributes["data-selection"] for e in page.elements if "data-selection" in e.attributes)
    assert selection == "camera = X100 and map within (AREA)"
    # as the script fills in the form
    filled = {"all": "1", "kind": "image", "filter": f"camera = X100 and {area}", "deed": "tag", "tag": "corner"}
    page = reader.send(f"/collections/{birds}/items/chosen", **filled)
    assert page.one("h1").text == "Tag 2 items?"
    assert "all items that match the filter" in page.text
    hidden = {str(e.attributes["name"]): str(e.attributes["value"]) for e in page.all("input", type="hidden")}
    page = reader.send(f"/collections/{birds}/items/chosen", **hidden)
    tagged = ada.get(f"/collections/{birds}/items", query_string={"filter": "tags = corner"}).json["items"]
    assert {item["id"] for item in tagged} == {key for _, key in inside}


def test_a_filter_that_can_not_be_read_and_a_colour_that_is_none_are_told(
    reader: Visitor, birds: str, birds_on_map: dict[str, str]
) -> None:
    page = reader.get(f"/collections/{birds}/map?filter=camera+%3D")
    assert "The filter can't be read at its end" in page.text
    assert not page.all("path", class_="map-dots")
    page = reader.get(f"/collections/{birds}/map?colour=position")
    assert "A map can't be coloured by 'position'" in page.text
    assert dots(page) == 6
    assert "No items of the map match this filter" in reader.get(f"/collections/{birds}/map?q=nothing").text


def test_further_columns_are_offered_as_colours(
    reader: Visitor, ada: Caller, birds: str, birds_on_map: dict[str, str]
) -> None:
    for name, cells in {
        "0.png": {"Prägeort": "Köln"},
        "1.png": {"Prägeort": "KOLN"},
        "2.png": {"Prägeort": "Ulm"},
    }.items():
        assert ada.patch(f"/items/{birds_on_map[name]}", json={"columns": cells}).status_code == 200
    page = reader.get(f"/collections/{birds}/map")
    (option,) = (one for one in page.all("option") if str(one.attributes.get("value")).startswith("column."))
    assert option.text == "Prägeort"
    for colour in (option.attributes["value"], "column.PRAGEORT"):
        page = reader.get(f"/collections/{birds}/map", query_string={"colour": colour})
        assert [one.text for one in page.all("option") if "selected" in one.attributes] == ["Prägeort"]
        assert next(one.text for one in page.elements if one.attributes.get("id") == "legend-title") == "Prägeort"
        lines = legend(page)
        assert len({"Köln", "KOLN"} & set(lines)) == 1, "filters take them for the same"
        assert {"Ulm", "not"} < set(lines)
        assert dots(reader.get(next(address for label, address in lines.items() if label.startswith("K")))) == 2


def test_who_only_sees_the_collection_sees_its_map_without_forms(
    reader: Visitor, ada: Caller, bob: Caller, birds: str, birds_on_map: dict[str, str]
) -> None:
    ada.put(f"/collections/{birds}/visibility", json={"visibility": "everyone"})
    start_session(reader.client.application, reader.client, bob.user)
    page = reader.get(f"/collections/{birds}/map")
    assert dots(page) == 6
    assert not [form for form in page.all("form", method="post") if birds in str(form.attributes.get("action"))]


def test_links_keep_the_colour(reader: Visitor, birds: str, birds_on_map: dict[str, str]) -> None:
    page = reader.get(f"/collections/{birds}/map?colour=camera")
    for address in legend(page).values():
        assert parse_qs(urlsplit(address).query)["colour"] == ["camera"]
