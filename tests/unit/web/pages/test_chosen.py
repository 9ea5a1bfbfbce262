"""Selected items on the page of a collection, without scripts."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.conftest import Page, Searched, Visitor, hidden_fields

from retllm_web.actions import chosen


@pytest.fixture
def address(texts: str) -> str:
    """The address of the form."""
    return f"/collections/{texts}/items/chosen"


@pytest.fixture
def keys(texts: str, ada: Caller) -> list[str]:
    """The three texts: robin, wren and a crow."""
    return [one["id"] for one in items(ada, texts)]


def items(caller: Caller, collection: str) -> list[dict[str, Any]]:
    return list(caller.get(f"/collections/{collection}/items").json["items"])


def alerts(page: Page) -> list[str]:
    return [e.text for e in page.all("div", class_="alert")]


def test_each_item_has_a_checkbox_of_the_form(reader: Visitor, texts: str, keys: list[str]) -> None:
    page = reader.get(f"/collections/{texts}")
    boxes = page.all("input", class_="tile-check")
    assert [(box.attributes["value"], box.attributes["form"]) for box in boxes] == [(key, "chosen") for key in keys]
    labels = [label.text for box in boxes for label in page.all("label", for_=str(box.attributes["id"]))]
    assert labels == ["Select robin", "Select wren", "Select a crow"]


def test_selected_items_are_tagged_and_rated(
    reader: Visitor, texts: str, address: str, keys: list[str], ada: Caller
) -> None:
    reader.get(f"/collections/{texts}?q=r&sort=-name")
    page = reader.send(address, deed="tag", tag=" bird ", item=keys[:2], q="r", sort="-name")
    assert alerts(page) == ["2 items were tagged."]
    # back on the same list
    assert page.one("input", id="q").attributes["value"] == "r"
    assert alerts(reader.send(address, deed="rate", rating="4", item=keys[1:2])) == ["1 item was rated."]
    page = reader.send(address, deed="untag", tag="bird", item=keys)
    assert alerts(page) == ["2 items were changed.", "1 was not changed: nothing to change."]
    assert [(one["tags"], one["rating"]) for one in items(ada, texts)] == [([], None), ([], 4), ([], None)]


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ({"deed": "tag", "tag": "x"}, "Select items first, or all that match the filter."),
        ({"deed": "tag", "tag": " ", "all": "1"}, "Write a tag first."),
        ({"deed": "add", "caption": " ", "all": "1"}, "Write what to add first."),
        ({"deed": "replace", "find": "", "replacement": "x", "all": "1"}, "Write what to find first."),
        (
            {"deed": "caption", "caption": "", "all": "1", "confirmed": "1"},
            "3 were not changed: a text can't be empty.",
        ),
        ({"deed": "move", "to": "", "all": "1"}, "Choose a collection first."),
        ({"deed": "move", "to": "x", "all": "1"}, "Choose a collection first."),
        ({"deed": "rate", "rating": "9", "all": "1", "confirmed": "1"}, "rating: Input should be less than"),
        ({"deed": "burn", "all": "1"}, "Choose what to do with the items."),
        ({"deed": "delete", "all": "1", "filter": "takn = 5"}, "Did you mean taken?"),
    ],
)
def test_what_is_missing_is_said(
    reader: Visitor, texts: str, address: str, sent: dict[str, str], message: str, ada: Caller
) -> None:
    before = items(ada, texts)
    reader.get(f"/collections/{texts}")
    page = reader.send(address, **sent)
    assert message in " ".join(alerts(page))
    assert items(ada, texts) == before


def test_a_deletion_is_confirmed_first(reader: Visitor, texts: str, address: str, keys: list[str], ada: Caller) -> None:
    reader.get(f"/collections/{texts}")
    page = reader.send(address, deed="delete", item=keys[:2])
    assert page.one("h1").text == "Delete 2 items?"
    assert len(items(ada, texts)) == 3
    page = reader.send(address, **hidden_fields(page, address))
    assert alerts(page) == ["2 items were moved to the trash. Undo"]
    assert [one["id"] for one in items(ada, texts)] == keys[2:]


@pytest.mark.parametrize(
    ("sent", "question", "texts_after"),
    [
        ({"deed": "caption", "caption": "an owl"}, "Each gets the caption “an owl”", ["an owl", "a wren", "a crow"]),
        ({"deed": "add", "caption": "at dawn"}, "“at dawn” is added", ["a robin at dawn", "a wren at dawn", "a crow"]),
        (
            {"deed": "replace", "find": "a ", "replacement": "the "},
            "“a ” becomes “the ”",
            ["the robin", "the wren", "a crow"],
        ),
        ({"deed": "replace", "find": "robin"}, "“robin” is removed", ["a", "a wren", "a crow"]),
    ],
)
def test_captions_are_changed_after_a_confirmation(
    reader: Visitor,
    texts: str,
    address: str,
    keys: list[str],
    ada: Caller,
    sent: dict[str, str],
    question: str,
    texts_after: list[str],
) -> None:
    before = [ada.get(f"/items/{key}").json["text"] for key in keys]
    reader.get(f"/collections/{texts}")
    page = reader.send(address, item=keys[:2], **sent)
    assert page.one("h1").text == "Change the captions of 2 items?"
    assert question in page.html.replace("<bdi>", "").replace('<bdi class="spaces">', "").replace("</bdi>", "")
    assert "until it is indexed again" in page.text
    assert [ada.get(f"/items/{key}").json["text"] for key in keys] == before
    page = reader.send(address, **hidden_fields(page, address))
    assert [ada.get(f"/items/{key}").json["text"] for key in keys] == texts_after
    # two texts can't be the same
    assert alerts(page)[0] in ("2 items were changed.", "1 item was changed.")


def test_all_that_match_the_filter_are_confirmed_and_done_in_parts(
    reader: Visitor, texts: str, address: str, ada: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chosen, "BATCH", 1)
    monkeypatch.setattr(chosen, "MAX", 1)
    reader.get(f"/collections/{texts}?q=r")
    page = reader.send(address, deed="delete", all="1", filter='name in ("robin", "wren")')
    assert page.one("h1").text == "Delete 2 items?"
    assert "this page is shown again for the rest" in page.text
    page = reader.send(address, **hidden_fields(page, address))
    assert alerts(page) == ["1 item was moved to the trash. Undo"]
    assert page.one("h1").text == "Delete 1 item?"
    page = reader.send(address, **hidden_fields(page, address))
    while page.all("h1")[0].text.startswith("Delete"):
        page = reader.send(address, **hidden_fields(page, address))
    assert [one["name"] for one in items(ada, texts)] == ["a crow"]


def test_items_are_moved_to_a_collection_that_one_may_change(
    reader: Visitor, texts: str, address: str, keys: list[str], ada: Caller, bob: Caller
) -> None:
    his = bob.post("/collections", json={"name": "Waders of bob"}).json["id"]
    bob.put(f"/collections/{his}/visibility", json={"visibility": "everyone"})
    page = reader.get(f"/collections/{texts}")
    # hers is the only one
    assert page.all("select", id="chosen-to") == []
    other = ada.post("/collections", json={"name": "Other"}).json["id"]
    ada.post(f"/collections/{other}/items?index=false", json={"items": [{"text": "a wren"}]})
    page = reader.get(f"/collections/{texts}")
    listed = [e.attributes["value"] for e in page.all("option") if e.text == "Other"]
    assert listed == [other]
    assert "Waders of bob" not in page.text
    page = reader.send(address, deed="move", to=other, item=keys)
    assert alerts(page) == [
        "2 items were moved.",
        "1 was not moved: the other collection has the same content.",
    ]
    assert [one["name"] for one in items(ada, texts)] == ["wren"]
    assert len(items(ada, other)) == 3


@pytest.mark.parametrize("deed", ["move", "delete"])
def test_earlier_results_keep_the_name_of_an_item_that_is_gone(
    reader: Visitor, indexed: str, searched: Searched, ada: Caller, deed: str
) -> None:
    searched.finish([1, 2, 3])
    other = ada.post("/collections", json={"name": "Other"}).json["id"]
    reader.get(f"/collections/{indexed}")
    gone = str(searched.items[0])
    reader.send(f"/collections/{indexed}/items/chosen", deed=deed, to=other, item=gone, confirmed="1")
    assert gone not in [one["id"] for one in items(ada, indexed)]
    page = reader.get(f"/jobs/{searched.id}")
    assert (page.status, "robin" in page.text) == (200, True)
