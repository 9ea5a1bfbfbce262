"""The form that changes an item: it has what the item has, says what is wrong, and keeps what was typed."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from flask import Flask
from tests.unit.web.conftest import PASSWORD, Caller
from tests.unit.web.pages.conftest import Page, Visitor
from tests.unit.web.pictures import picture
from tests.unit.web.test_item_changes import added

from retllm.db.enums import Role, Visibility
from retllm.db.session import transaction
from retllm.db.tables import Collection
from retllm.identity import accounts
from retllm_web.http.services import Services

FACTS = {
    "text": "a tern\non a rock",
    "title": "A tern",
    "tags": ["sea, salt", "bird"],
    "rating": 4,
    "taken": "2003-07-02T14:30",
    "camera": "X100",
    "lens": "50mm",
    "position": {"latitude": 48.123456789, "longitude": -11.5},
    "columns": {"Photographer": "Ann", "Box": "7"},
}


@pytest.fixture
def tern(ada: Caller, birds: str) -> str:
    """A picture with a caption and all facts."""
    key = added(ada, birds, ("a/tern.png", picture()))
    assert ada.patch(f"/items/{key}", json=FACTS).status_code == 200
    return key


def fields(page: Page, item_id: str) -> dict[str, Any]:
    """Return what a browser would send of the form if nothing was typed."""
    at = next(n for n, e in enumerate(page.elements) if e.attributes.get("action") == f"/items/{item_id}/change")
    found: dict[str, Any] = {}
    selected = ""
    for element in page.elements[at + 1 :]:
        name = element.attributes.get("name")
        if element.tag == "form":
            break
        if element.tag == "input" and name not in (None, "csrf_token"):
            found.setdefault(str(name), []).append(element.attributes.get("value") or "")
        elif element.tag == "textarea":
            # without the line break after the tag; a browser sends CR LF, however the page has it
            text = "".join(element.inside).removeprefix("\n")
            found[str(name)] = "\r\n".join(text.splitlines())
        elif element.tag == "option" and "selected" in element.attributes:
            selected = element.attributes.get("value") or ""
    return {**found, "rating": selected}


def facts(ada: Caller, key: str) -> dict[str, Any]:
    item = ada.get(f"/items/{key}").json
    return {name: item[name] for name in FACTS}


def test_sending_the_form_as_it_is_changes_nothing(reader: Visitor, ada: Caller, tern: str) -> None:
    before = ada.get(f"/items/{tern}").json
    page = reader.send(f"/items/{tern}/change", **fields(reader.get(f"/items/{tern}"), tern))
    assert "Saved." in page.text
    assert ada.get(f"/items/{tern}").json == before


def test_everything_can_be_changed(reader: Visitor, ada: Caller, tern: str) -> None:
    form = fields(reader.get(f"/items/{tern}"), tern)
    typed = {
        "name": "b/gull.png",
        "text": "a gull",
        "title": "",
        "tags": "gull\r\n\r\n sea, salt ",
        "rating": "",
        "taken": "1998",
        "camera": "Leica",
        "lens": "",
        "latitude": "-1.5",
        "longitude": "2",
        "cell": ["Bob", "", "5", ""],
        "column": ["Photographer", "Box", "Roll", ""],
    }
    page = reader.send(f"/items/{tern}/change", **{**form, **typed})
    assert (page.status, page.path) == (200, f"/items/{tern}")
    assert ada.get(f"/items/{tern}").json["name"] == "b/gull.png"
    assert facts(ada, tern) == {
        "text": "a gull",
        "title": None,
        "tags": ["gull", "sea, salt"],
        "rating": None,
        "taken": "1998",
        "camera": "Leica",
        "lens": None,
        "position": {"latitude": -1.5, "longitude": 2},
        "columns": {"Photographer": "Bob", "Roll": "5"},
    }


def test_all_columns_can_be_cleared(reader: Visitor, ada: Caller, tern: str) -> None:
    form = fields(reader.get(f"/items/{tern}"), tern)
    reader.send(f"/items/{tern}/change", **{**form, "column": [""] * 4, "cell": [""] * 4})
    assert facts(ada, tern) == {**FACTS, "columns": {}}


def test_what_others_changed_meanwhile_stays(reader: Visitor, ada: Caller, tern: str) -> None:
    form = fields(reader.get(f"/items/{tern}"), tern)
    ada.patch(f"/items/{tern}", json={"title": "Changed by another", "columns": {"Box": "8"}})
    reader.send(f"/items/{tern}/change", **{**form, "rating": "1"})
    assert facts(ada, tern) == {**FACTS, "title": "Changed by another", "columns": {"Box": "8"}, "rating": 1}


@pytest.mark.parametrize(
    ("typed", "field", "message"),
    [
        ({"name": " "}, "name", "An item needs a name."),
        ({"taken": "in winter"}, "taken", "'in winter' is no time."),
        ({"rating": "6"}, "rating", "This must be less than or equal to 5"),
        ({"latitude": "91"}, "latitude", "This must be less than or equal to 90"),
        ({"longitude": ""}, "longitude", "Write both in degrees"),
        ({"latitude": "north"}, "latitude", "Write both in degrees"),
        ({"column": ["Box", "Box"], "cell": ["1", "2"]}, "columns", "Two columns have the name “Box”."),
        ({"column": [""], "cell": ["1"]}, "columns", "The column with “1” needs a name."),
        ({"title": "a\0b"}, "title", "NUL"),
    ],
)
def test_an_error_is_beside_its_field_and_what_was_typed_is_kept(
    reader: Visitor, ada: Caller, tern: str, typed: dict[str, Any], field: str, message: str
) -> None:
    form = {**fields(reader.get(f"/items/{tern}"), tern), "camera": "typed <before>", **typed}
    page = reader.send(f"/items/{tern}/change", **form)
    assert page.status == 422
    assert message in page.one("div", id=f"{field}-problem").text
    again = fields(page, tern)
    assert again["camera"] == ["typed <before>"]
    if field in typed and field != "rating" and "\0" not in typed[field]:
        assert again[field] == [typed[field]]
    assert [e for e in page.all("details") if "open" in e.attributes]
    assert facts(ada, tern) == FACTS


def test_a_corrected_form_is_saved_with_all_that_was_typed(reader: Visitor, ada: Caller, tern: str) -> None:
    form = {**fields(reader.get(f"/items/{tern}"), tern), "camera": "typed before", "taken": "in winter"}
    again = fields(reader.send(f"/items/{tern}/change", **form), tern)
    reader.send(f"/items/{tern}/change", **{**again, "taken": "1998"})
    assert facts(ada, tern) == {**FACTS, "camera": "typed before", "taken": "1998"}


def test_a_part_of_the_form_can_be_sent_and_refused(reader: Visitor, ada: Caller, tern: str) -> None:
    reader.get(f"/items/{tern}")
    page = reader.send(f"/items/{tern}/change", rating="6")
    assert "This must be less than or equal to 5" in page.text
    assert facts(ada, tern) == FACTS


def test_a_text_can_not_become_one_that_the_collection_has(reader: Visitor, texts: str, ada: Caller) -> None:
    robin = ada.get(f"/collections/{texts}/items").json["items"][0]["id"]
    form = fields(reader.get(f"/items/{robin}"), robin)
    page = reader.send(f"/items/{robin}/change", **{**form, "text": "a wren"})
    assert page.status == 409
    assert page.one("div", id="text-problem").text == "The collection has this text already: wren."


def test_who_may_not_change_the_collection_has_no_form(
    app: Flask, served: Services, ada: Caller, birds: str, tern: str
) -> None:
    with transaction(served.sessions) as session:
        accounts.create_user(session, "vic", PASSWORD, Role.VIEWER)
        session.get_one(Collection, uuid.UUID(birds)).visibility = Visibility.EVERYONE
    visitor = Visitor(app.test_client())
    visitor.log_in("vic")
    page = visitor.get(f"/items/{tern}")
    assert page.status == 200
    assert page.all("form", action=f"/items/{tern}/change") == []
