"""Names, captions and facts of items can be changed, and what is given is what is changed."""

from __future__ import annotations

import io
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from tests.unit.web.conftest import Caller
from tests.unit.web.pictures import picture

from retllm.db.facts import NO_FACTS
from retllm.db.people import AuditEntry
from retllm.db.session import transaction
from retllm.db.tables import Item
from retllm.identity.audit import Action
from retllm_web.http.services import Services

_NO_FACTS = {
    "title": None,
    "tags": [],
    "rating": None,
    "taken": None,
    "camera": None,
    "lens": None,
    "position": None,
    "columns": {},
}


@pytest.fixture
def bird(ada: Caller, birds: str) -> str:
    """A picture without a caption."""
    return added(ada, birds, ("a/robin.png", picture("red")))


def added(caller: Caller, collection: str, file: tuple[str, bytes]) -> str:
    data = {"file": [(io.BytesIO(file[1]), file[0])]}
    answer = caller.post(f"/collections/{collection}/items", data=data, content_type="multipart/form-data")
    return str(answer.json["outcomes"][0]["item_id"])


def facts(item: dict[str, Any]) -> dict[str, Any]:
    return {name: item[name] for name in _NO_FACTS}


def test_facts_are_changed_and_removed(ada: Caller, bird: str) -> None:
    given = {
        "title": " A robin\n in snow ",
        "tags": ["winter", "Winter", "winter", " garden "],
        "rating": 4,
        "taken": "1998-12",
        "camera": "Canon EOS 5D",
        "lens": "50mm",
        "position": {"latitude": 48.1, "longitude": -11.5},
        "columns": {"Photographer": "Ann", "empty": "  ", "a\nb": "c\td"},
    }
    found = ada.patch(f"/items/{bird}", json=given)
    assert found.status_code == 200, found.json
    expected = given | {
        "title": "A robin in snow",
        "tags": ["winter", "Winter", "garden"],
        "columns": {"Photographer": "Ann", "a b": "c d"},
    }
    assert facts(found.json) == expected
    assert (found.json["name"], found.json["version"]) == ("a/robin.png", 1)
    assert facts(ada.patch(f"/items/{bird}", json={"rating": None}).json) == expected | {"rating": None}
    nothing = {"title": "", "tags": [], "taken": None, "camera": None, "lens": "", "position": None, "columns": {}}
    assert facts(ada.patch(f"/items/{bird}", json=nothing).json) == _NO_FACTS


@pytest.mark.parametrize(
    "taken", ["1923", "1923-05", "2003-07-02", "2003-07-02T14:30", "2003-07-02T14:30:05", "2003-07-02T14:30:05-03:30"]
)
def test_a_time_is_kept_as_precisely_as_it_is_given(ada: Caller, bird: str, taken: str) -> None:
    assert ada.patch(f"/items/{bird}", json={"taken": taken}).json["taken"] == taken


def test_a_whole_number_may_be_written_as_a_fraction(ada: Caller, bird: str) -> None:
    assert ada.patch(f"/items/{bird}", json={"rating": 5.0}).json["rating"] == 5


def test_a_caption_is_added_changed_and_removed(ada: Caller, bird: str) -> None:
    for version, text, kind in ((2, "a robin", "image+text"), (3, "a red robin", "image+text"), (4, None, "image")):
        found = ada.patch(f"/items/{bird}", json={"text": text}).json
        assert (found["text"], found["version"], found["kind"]) == (text, version, kind)
    assert ada.patch(f"/items/{bird}", json={"text": " "}).json["version"] == 4


def test_a_text_is_changed_but_not_into_another_one_or_none(ada: Caller, birds: str) -> None:
    first, second = (added(ada, birds, (f"{text}.txt", text.encode())) for text in ("one", "two"))
    found = ada.patch(f"/items/{first}", json={"text": "three"}).json
    assert (found["text"], found["size_bytes"], found["version"]) == ("three", 5, 2)
    refused = ada.patch(f"/items/{second}", json={"text": "three"})
    assert (refused.status_code, refused.json["error"]["code"]) == (409, "conflict")
    refused = ada.patch(f"/items/{second}", json={"text": ""})
    assert (refused.status_code, refused.json["error"]["detail"]["field"]) == (422, "text")
    assert ada.get(f"/items/{second}").json["text"] == "two"


def test_a_name_is_changed(ada: Caller, bird: str) -> None:
    assert ada.patch(f"/items/{bird}", json={"name": "../b//Robin\u202e.png"}).json["name"] == "b/Robin.png"


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"name": " / "},
        {"rating": 6},
        {"rating": "4"},
        {"rating": True},
        {"rating": 4.5},
        {"taken": "in winter"},
        {"position": {"latitude": 91, "longitude": 0}},
        {"position": {"latitude": 5}},
        {"tags": ["x"] * 201},
        {"columns": {str(n): "x" for n in range(101)}},
        {"text": "a\0b"},
        {"unknown": 1},
    ],
)
def test_what_is_no_value_is_refused_and_changes_nothing(ada: Caller, bird: str, change: dict[str, Any]) -> None:
    before = ada.get(f"/items/{bird}").json
    answer = ada.patch(f"/items/{bird}", json={"title": "new"} | change)
    assert answer.status_code == 422, answer.json
    assert ada.get(f"/items/{bird}").json == before


@pytest.mark.usefixtures("without_trash")
def test_facts_go_with_the_item(ada: Caller, bird: str, served: Services) -> None:
    place = {"latitude": 48.1, "longitude": 11.5}
    ada.patch(f"/items/{bird}", json={"title": "x", "tags": ["y"], "position": place, "columns": {"z": "z"}})
    assert ada.delete(f"/items/{bird}").status_code == 204
    with transaction(served.sessions) as session:
        item = session.get_one(Item, UUID(bird))
        assert {name: getattr(item, name) for name in NO_FACTS} == NO_FACTS


def test_changes_are_in_the_audit_log(ada: Caller, bird: str, served: Services) -> None:
    ada.patch(f"/items/{bird}", json={"name": "new.png", "rating": 3})
    with transaction(served.sessions) as session:
        entry = session.scalars(sa.select(AuditEntry).filter_by(action=Action.ITEM_CHANGED)).one()
        assert (entry.target, entry.detail) == ("a/robin.png", {"changed": ["name", "rating"]})


def test_items_are_listed_by_filters_and_in_orders(ada: Caller, birds: str) -> None:
    names = ["b/Été.png", "a/zebra.png", "a/Emu.png", "loose.png"]
    keys = {name: added(ada, birds, (name, picture(f"rgb({n},9,9)"))) for n, name in enumerate(names)}
    for name, taken in (("b/Été.png", "2003"), ("a/zebra.png", "1998-05"), ("loose.png", "2003-07-02")):
        ada.patch(f"/items/{keys[name]}", json={"taken": taken})

    def listed(query: str) -> list[str]:
        found: list[str] = []
        after = ""
        while True:
            page = ada.get(f"/collections/{birds}/items?limit=1&{query}{after}").json
            found += [item["name"] for item in page["items"]]
            if page["next"] is None:
                return found
            after = f"&after={page['next']}"

    assert listed("") == names
    assert listed("sort=-added") == names[::-1]
    assert listed("sort=name") == ["a/Emu.png", "a/zebra.png", "b/Été.png", "loose.png"]
    assert listed("sort=-name") == ["loose.png", "b/Été.png", "a/zebra.png", "a/Emu.png"]
    assert listed("sort=taken") == ["a/zebra.png", "b/Été.png", "loose.png", "a/Emu.png"]
    assert listed("sort=-taken") == ["loose.png", "b/Été.png", "a/zebra.png", "a/Emu.png"]
    assert listed('filter=folder ~ "a/"&sort=name') == ["a/Emu.png", "a/zebra.png"]
    assert listed("filter=taken = 2003&sort=taken") == ["b/Été.png", "loose.png"]
    assert listed("filter=not has taken") == ["a/Emu.png"]
    assert listed("q=ETE") == ["b/Été.png"]
    refused = ada.get(f"/collections/{birds}/items?filter=takn = 5")
    assert refused.status_code == 422
    assert "Did you mean taken?" in refused.json["error"]["message"]
    assert ada.get(f"/collections/{birds}/items?sort=size").status_code == 422
