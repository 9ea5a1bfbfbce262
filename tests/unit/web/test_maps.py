"""The API makes the map of a collection, tells its state, and lists its points in groups."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.web.conftest import Caller
from tests.unit.web.pictures import picture
from tests.unit.web.test_item_changes import added
from tests.unit.web.vectors import embed_items

from retllm.db.enums import JobKind
from retllm.maps import process
from retllm.settings import Settings, public_name
from retllm_web.actions import item_lists, map_points
from retllm_web.http.services import Services

CAMERAS = ["X100", "x100", "M6", None, "X100", "F3"]


def on_a_line(path: Path, dimension: int, check: Callable[[], None]) -> Any:
    """Lay out on a diagonal, in the order of the file."""
    number = np.arange(path.stat().st_size // 4 // dimension)
    return np.stack([number, number], axis=1).astype(np.float32)


@pytest.fixture
def birds_on_map(
    ada: Caller, birds: str, served: Services, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """Six pictures with cameras and years, from the left top of the map to its right bottom; their keys by name."""
    monkeypatch.setattr(process, "laid_out", on_a_line)
    keys = {f"{n}.png": added(ada, birds, (f"{n}.png", picture(f"rgb({n}, 9, 9)"))) for n in range(len(CAMERAS))}
    for number, key in enumerate(keys.values()):
        change = {"camera": CAMERAS[number], "taken": f"{1990 + number}", "tags": ["all", f"t{number % 2}"]}
        assert ada.patch(f"/items/{key}", json=change).status_code == 200
    embed_items(served, settings, birds, public_name(settings.embedder_name))
    answer = ada.post(f"/collections/{birds}/map")
    assert (answer.status_code, answer.json["kind"]) == (202, JobKind.MAP)
    return keys


def listed(caller: Caller, collection: str, **query: Any) -> dict[str, Any]:
    answer = caller.get(f"/collections/{collection}/map/points", query_string=query)
    assert answer.status_code == 200, answer.json
    return dict(answer.json)


def grouped(found: dict[str, Any]) -> dict[str, set[str]]:
    """The items of each group by its label, without groups that have none."""
    labels = [group["label"] for group in found["groups"]]
    items: dict[str, set[str]] = {}
    for key, group in zip(found["ids"], found["group"], strict=True):
        items.setdefault(labels[group], set()).add(key)
    return items


def test_the_state_tells_when_it_was_made_and_of_what(ada: Caller, birds: str, birds_on_map: dict[str, str]) -> None:
    state = ada.get(f"/collections/{birds}/map").json
    assert (state["items"], state["out_of_date"]) == (6, False)
    assert state["made_at"]
    assert state["job_id"]


def test_a_collection_without_a_map_has_no_points(ada: Caller, birds: str) -> None:
    assert ada.get(f"/collections/{birds}/map").json == {
        "job_id": None,
        "made_at": None,
        "items": None,
        "out_of_date": False,
    }
    assert (listed(ada, birds)["ids"], listed(ada, birds)["next"]) == ([], None)
    assert ada.post(f"/collections/{birds}/map").status_code == 409


def test_points_come_in_pages_each_once(ada: Caller, birds: str, birds_on_map: dict[str, str]) -> None:
    found, after = [], None
    for expected in (4, 2):
        page = listed(ada, birds, limit=4, **({"after": after} if after is not None else {}))
        assert len(page["ids"]) == len(page["x"]) == len(page["y"]) == len(page["group"]) == expected
        found += page["ids"]
        after = page["next"]
    assert after is None
    assert sorted(found) == sorted(birds_on_map.values())


def test_the_groups_are_the_values_of_a_field_and_each_has_the_filter_of_its_items(
    ada: Caller, birds: str, birds_on_map: dict[str, str]
) -> None:
    found = listed(ada, birds, colour="camera")
    # capital letters do not count, and the most frequent one is first
    assert [(group["label"].lower(), group["count"]) for group in found["groups"]] == [
        ("x100", 3),
        ("f3", 1),
        ("m6", 1),
        ("other", 0),
        ("not known", 1),
    ]
    for group in found["groups"]:
        if group["filter"] is None:
            continue
        items = ada.get(f"/collections/{birds}/items", query_string={"filter": group["filter"]}).json["items"]
        assert {item["id"] for item in items} == grouped(found).get(group["label"], set())


@pytest.mark.parametrize(
    "colour", ["taken", "added", "kind", "tags", "rating", "width", "size", "folder", "shape", "lens"]
)
def test_points_are_coloured_by_any_field(ada: Caller, birds: str, birds_on_map: dict[str, str], colour: str) -> None:
    found = listed(ada, birds, colour=colour)
    assert sum(group["count"] for group in found["groups"]) >= 6
    assert len(found["group"]) == 6
    for label, keys in grouped(found).items():
        (text,) = (group["filter"] for group in found["groups"] if group["label"] == label)
        items = ada.get(f"/collections/{birds}/items", query_string={"filter": text}).json["items"]
        # of several tags the most frequent one decides
        assert keys <= {item["id"] for item in items}


def test_many_numbers_become_ranges_with_about_as_many_items(
    ada: Caller, birds: str, birds_on_map: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retllm_web.actions.map_colours.MOST", 3)
    found = listed(ada, birds, colour="taken")
    assert [group["label"] for group in found["groups"][:-2]] == ["1990 – 1991", "1992 – 1993", "1994 – 1995"]
    for label, keys in grouped(found).items():
        (text,) = (group["filter"] for group in found["groups"] if group["label"] == label)
        items = ada.get(f"/collections/{birds}/items", query_string={"filter": text}).json["items"]
        assert keys == {item["id"] for item in items}


def test_a_further_column_is_a_field_too(ada: Caller, birds: str, birds_on_map: dict[str, str]) -> None:
    for name, key in list(birds_on_map.items())[:3]:
        assert ada.patch(f"/items/{key}", json={"columns": {"Inv. no": f"N {name}"}}).status_code == 200
    found = listed(ada, birds, colour='column."Inv. no"')
    assert sorted(map(len, grouped(found).values())) == [1, 1, 1, 3]


@pytest.mark.parametrize("colour", ["position", "name", "nonsense", "taken and kind = text", "has taken", "column."])
def test_by_nothing_else(ada: Caller, birds: str, birds_on_map: dict[str, str], colour: str) -> None:
    answer = ada.get(f"/collections/{birds}/map/points", query_string={"colour": colour})
    assert (answer.status_code, answer.json["error"]["detail"]["field"]) == (422, "colour")
    assert "only by taken, camera" in answer.json["error"]["message"]


def test_filters_limit_the_points(
    ada: Caller, birds: str, birds_on_map: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_lists, "MAX_COMPARED", 4)
    query = {"filter": "camera = X100", "colour": "camera"}
    first = listed(ada, birds, **query)
    assert first["next"] == 3
    found = first["ids"] + listed(ada, birds, **query, after=3)["ids"]
    names = {name for name, key in birds_on_map.items() if key in found}
    assert names == {"0.png", "1.png", "4.png"}


def test_items_in_the_trash_are_not_on_the_map_until_they_are_restored(
    ada: Caller, birds: str, birds_on_map: dict[str, str]
) -> None:
    key = birds_on_map["0.png"]
    assert ada.delete(f"/items/{key}").status_code == 204
    assert key not in listed(ada, birds)["ids"]
    assert ada.post(f"/collections/{birds}/trash/restore", json={"items": [key]}).status_code == 200
    assert key in listed(ada, birds)["ids"]


def test_an_area_of_the_map_is_a_filter(ada: Caller, birds: str, birds_on_map: dict[str, str]) -> None:
    found = listed(ada, birds)
    at = {key: (x, y) for key, x, y in zip(found["ids"], found["x"], found["y"], strict=True)}

    def matching(text: str) -> set[str]:
        return {
            one["id"] for one in ada.get(f"/collections/{birds}/items", query_string={"filter": text}).json["items"]
        }

    assert matching("map within (0, 0, 50, 50)") == {key for key, (x, y) in at.items() if x <= 50 and y <= 50}
    assert matching("has map") == set(birds_on_map.values())
    # a narrow area along the diagonal, and one beside it
    assert matching("map within (0, 0, 5, 0, 100, 95, 100, 100, 95, 100, 0, 5)") == set(birds_on_map.values())
    assert matching("map within (20, 0, 100, 0, 100, 80)") == set()


def test_those_who_only_see_the_collection_make_no_map(
    ada: Caller, bob: Caller, birds: str, birds_on_map: dict[str, str]
) -> None:
    ada.put(f"/collections/{birds}/visibility", json={"visibility": "everyone"})
    assert bob.post(f"/collections/{birds}/map").status_code == 403
    assert len(listed(bob, birds)["ids"]) == 6


def test_a_page_reads_no_more_than_its_points(ada: Caller, birds: str, birds_on_map: dict[str, str]) -> None:
    assert map_points.SAMPLE <= item_lists.MAX_COMPARED
    assert ada.get(f"/collections/{birds}/map/points", query_string={"limit": 10_001}).status_code == 422
    assert ada.get(f"/collections/{birds}/map/points", query_string={"after": -1}).status_code == 422
