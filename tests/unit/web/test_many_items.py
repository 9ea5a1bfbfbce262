"""Many items are changed and deleted in one request, each completely or not at all, and the answer says which."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from tests.unit.web.conftest import Caller
from tests.unit.web.pictures import picture
from tests.unit.web.test_item_changes import added

from retllm.db.people import AuditEntry
from retllm.db.session import transaction
from retllm.db.tables import Item
from retllm.identity.audit import Action
from retllm.media.facts import MAX_TAGS
from retllm.queue.audit import violations
from retllm.queue.audit_files import orphans
from retllm_web.actions import chosen
from retllm_web.http.services import Services

NAMES = ["a/one.png", "a/two.png", "b/three.png"]


@pytest.fixture
def items(ada: Caller, birds: str) -> list[str]:
    """Three pictures."""
    return [added(ada, birds, (name, picture(f"rgb({n},0,0)"))) for n, name in enumerate(NAMES)]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """One item in a transaction, and two in a request."""
    monkeypatch.setattr(chosen, "BATCH", 1)
    monkeypatch.setattr(chosen, "MAX", 2)


def sent(caller: Caller, collection: str, deed: str, **body: Any) -> Any:
    return caller.post(f"/collections/{collection}/items/{deed}", json=body)


def reasons(answer: Any) -> dict[str, str]:
    return {one["item_id"]: one["reason"] for one in answer.json["skipped"]}


def test_tags_are_added_and_removed(ada: Caller, birds: str, items: list[str]) -> None:
    ada.patch(f"/items/{items[0]}", json={"tags": ["old", "bird"]})
    ada.patch(f"/items/{items[1]}", json={"tags": ["bird", "new"]})
    change = {"add_tags": ["new", " new "], "remove_tags": ["old"]}
    answer = sent(ada, birds, "change", items=items, change=change)
    assert answer.status_code == 200, answer.json
    assert answer.json["done"] == [items[0], items[2]]
    assert answer.json["skipped"] == [{"item_id": items[1], "name": "a/two.png", "reason": "unchanged"}]
    assert (answer.json["next"], answer.json["error"]) == (None, None)
    assert [ada.get(f"/items/{one}").json["tags"] for one in items] == [["bird", "new"], ["bird", "new"], ["new"]]


def test_an_item_keeps_its_tags_if_it_would_have_too_many(ada: Caller, birds: str, items: list[str]) -> None:
    full = [str(n) for n in range(MAX_TAGS)]
    ada.patch(f"/items/{items[0]}", json={"tags": full})
    answer = sent(ada, birds, "change", items=items, change={"add_tags": ["one more"], "rating": 3})
    assert reasons(answer) == {items[0]: "too_many_tags"}
    found = ada.get(f"/items/{items[0]}").json
    assert (found["tags"], found["rating"]) == (full, None)


def captions(caller: Caller, items: list[str]) -> list[tuple[str | None, str]]:
    """The caption and the kind of each item."""
    return [(found["text"], found["kind"]) for found in (caller.get(f"/items/{one}").json for one in items)]


def test_captions_are_set_removed_replaced_and_added_to(ada: Caller, birds: str, items: list[str]) -> None:
    def change(**change: Any) -> Any:
        return sent(ada, birds, "change", items=items, change=change)

    ada.patch(f"/items/{items[0]}", json={"text": "a red bird, a red boat"})
    assert change(add_text=" on a lake ").json["done"] == items
    assert captions(ada, items) == [
        ("a red bird, a red boat on a lake", "image+text"),
        ("on a lake", "image+text"),
        ("on a lake", "image+text"),
    ]
    answer = change(replace_text={"find": "red ", "replacement": ""})
    assert (answer.json["done"], reasons(answer)) == (items[:1], dict.fromkeys(items[1:], "unchanged"))
    assert captions(ada, items)[0][0] == "a bird, a boat on a lake"
    # what is left of it is nothing
    assert change(replace_text={"find": "on a lake"}).json["done"] == items
    assert captions(ada, items) == [("a bird, a boat", "image+text"), (None, "image"), (None, "image")]
    assert change(text="A bird", add_text="of prey").json["done"] == items
    assert captions(ada, items) == [("A bird of prey", "image+text")] * 3
    assert change(text=None, rating=4).json["done"] == items
    assert captions(ada, items) == [(None, "image")] * 3


def test_a_changed_caption_makes_the_vectors_of_its_item_stale_and_another_fact_does_not(
    ada: Caller, birds: str, items: list[str], served: Services
) -> None:
    def versions() -> list[int]:
        with transaction(served.sessions) as session:
            return list(session.scalars(sa.select(Item.version).order_by(Item.id)))

    before = versions()
    sent(ada, birds, "change", items=items[:2], change={"text": "a bird", "title": "A bird"})
    assert versions() == [before[0] + 1, before[1] + 1, before[2]]
    sent(ada, birds, "change", items=items, change={"text": "a bird", "title": "The bird"})
    assert versions() == [before[0] + 1, before[1] + 1, before[2] + 1]
    assert violations(served.sessions, served.storage) == []


def test_texts_stay_texts_and_differ(ada: Caller, birds: str) -> None:
    texts = {"items": [{"text": text} for text in ("a robin", "a wren", "a crow")]}
    ada.post(f"/collections/{birds}/items?index=false", json=texts)
    keys = [one["id"] for one in ada.get(f"/collections/{birds}/items").json["items"]]
    answer = sent(ada, birds, "change", items=keys, change={"text": None, "rating": 5})
    assert reasons(answer) == dict.fromkeys(keys, "text_needed")
    # each is done completely or not at all
    assert [ada.get(f"/items/{key}").json["rating"] for key in keys] == [None] * 3
    answer = sent(
        ada, birds, "change", items=keys, change={"replace_text": {"find": "a wren", "replacement": "a robin"}}
    )
    assert len(answer.json["done"]) == 0
    assert sorted(reasons(answer).values()) == ["duplicate", "unchanged", "unchanged"]
    answer = sent(ada, birds, "change", items=keys, change={"text": "an owl"})
    assert (len(answer.json["done"]), list(reasons(answer).values())) == (1, ["duplicate"] * 2)


def test_a_caption_that_would_be_too_long_is_left_as_it_is(
    ada: Caller, birds: str, items: list[str], served: Services
) -> None:
    most = served.settings.max_text_chars
    ada.patch(f"/items/{items[0]}", json={"text": "x" * most})
    for change in ({"add_text": "y"}, {"replace_text": {"find": "x", "replacement": "y" * 1_000}}):
        answer = sent(ada, birds, "change", items=items[:1], change=change)
        assert reasons(answer) == {items[0]: "text_too_long"}
    assert captions(ada, items)[0][0] == "x" * most
    answer = sent(ada, birds, "change", items=items, change={"text": "x" * (most + 1)})
    assert (answer.status_code, answer.json["error"]["detail"]["field"]) == (422, "text")


@pytest.mark.parametrize(
    "replace", [{"find": ""}, {"replacement": "x"}, {"find": "x" * 1_001}, {"find": "x", "in": "y"}]
)
def test_an_invalid_replacement_is_refused(ada: Caller, birds: str, items: list[str], replace: dict[str, str]) -> None:
    assert sent(ada, birds, "change", items=items, change={"replace_text": replace}).status_code == 422


def test_facts_are_set_and_removed(ada: Caller, birds: str, items: list[str]) -> None:
    place = {"latitude": 48.1, "longitude": 11.5}
    change = {"title": "A bird", "rating": 4, "taken": "1998-05", "camera": "X100", "lens": "50mm", "position": place}
    assert sent(ada, birds, "change", items=items, change=change).json["done"] == items
    assert {name: ada.get(f"/items/{items[2]}").json[name] for name in change} == change
    removed = sent(ada, birds, "change", items=items[:1], change=dict.fromkeys(change))
    assert removed.json["done"] == items[:1]
    assert [ada.get(f"/items/{one}").json["rating"] for one in items] == [None, 4, 4]


def test_items_that_the_collection_does_not_have_are_skipped(ada: Caller, birds: str, items: list[str]) -> None:
    other = ada.post("/collections", json={"name": "Other"}).json["id"]
    elsewhere, nowhere = added(ada, other, ("x.png", picture("blue"))), str(uuid4())
    ada.delete(f"/items/{items[0]}")
    wanted = [items[0], items[1], elsewhere, nowhere, items[1]]
    for deed, more in (("change", {"change": {"rating": 1}}), ("delete", {})):
        answer = sent(ada, birds, deed, items=wanted, **more)
        assert answer.json["done"] == [items[1]]
        assert reasons(answer) == dict.fromkeys([items[0], elsewhere, nowhere], "not_found")
        # of an item of another collection, not even the name is told
        assert {one["name"] for one in answer.json["skipped"]} == {"a/one.png", None}
    assert ada.get(f"/items/{elsewhere}").json["rating"] is None


@pytest.mark.parametrize("trashed", [True, False])
def test_deleted_items_are_gone_and_keep_their_names(
    ada: Caller, birds: str, items: list[str], served: Services, request: pytest.FixtureRequest, trashed: bool
) -> None:
    if not trashed:
        request.getfixturevalue("without_trash")
    answer = sent(ada, birds, "delete", items=items[:2])
    assert (answer.json["done"], answer.json["trashed"]) == (items[:2], trashed)
    assert [one["id"] for one in ada.get(f"/collections/{birds}/items").json["items"]] == items[2:]
    assert ada.get(f"/items/{items[0]}").status_code == 404
    again = sent(ada, birds, "delete", items=items[:2])
    assert (again.json["done"], {one["name"] for one in again.json["skipped"]}) == ([], {"a/one.png", "a/two.png"})
    assert violations(served.sessions, served.storage) == []
    with transaction(served.sessions) as session:
        assert [key for key in orphans(session, served.storage) if key.startswith("items/")] == []


def test_all_that_match_a_filter_are_changed(ada: Caller, birds: str, items: list[str]) -> None:
    answer = sent(ada, birds, "change", filter='folder = "a"', change={"rating": 5})
    assert (answer.json["done"], answer.json["skipped"], answer.json["next"]) == (items[:2], [], None)
    assert sent(ada, birds, "delete", filter="not has rating").json["done"] == items[2:]
    assert sent(ada, birds, "delete", filter="").json["done"] == items[:2]


@pytest.mark.usefixtures("few")
def test_a_request_takes_a_bounded_number_and_says_how_to_go_on(ada: Caller, birds: str, items: list[str]) -> None:
    first = sent(ada, birds, "delete", filter="").json
    assert (first["done"], first["next"]) == (items[:2], items[1])
    # added after the first request, and so not a part of it
    late = added(ada, birds, ("late.png", picture("green")))
    rest = sent(ada, birds, "delete", filter="", after=first["next"], upto=first["upto"]).json
    assert (rest["done"], rest["next"]) == (items[2:], None)
    assert [one["id"] for one in ada.get(f"/collections/{birds}/items").json["items"]] == [late]


@pytest.mark.usefixtures("few")
def test_an_error_in_between_says_what_was_done_before(
    ada: Caller, birds: str, items: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from retllm.errors import DatabaseBusy

    change_items = chosen.change_items

    def fails_second(session: Any, keys: Any, *rest: Any) -> Any:
        if keys == [UUID(items[1])]:
            raise DatabaseBusy
        return change_items(session, keys, *rest)

    monkeypatch.setattr(chosen, "change_items", fails_second)
    answer = sent(ada, birds, "change", items=items, change={"rating": 5})
    assert answer.json["done"] == items[:1]
    assert reasons(answer) == dict.fromkeys(items[1:], "not_tried")
    assert "try again" in answer.json["error"]
    by_filter = sent(ada, birds, "change", filter="", change={"rating": 4})
    assert (by_filter.json["done"], by_filter.json["next"]) == (items[:1], items[0])


@pytest.mark.parametrize(
    ("deed", "body"),
    [
        ("change", {"items": [], "change": {"rating": 1}}),
        ("change", {"change": {"rating": 1}}),
        ("change", {"filter": "", "change": {"rating": 6}}),
        ("change", {"filter": "", "change": {"rating": "4"}}),
        ("change", {"filter": "", "change": {"taken": "in winter"}}),
        ("change", {"filter": "", "change": {"name": "all the same"}}),
        ("delete", {"items": ["x"]}),
        ("delete", {"filter": "takn = 5"}),
        ("delete", {"filter": "", "items": [str(uuid4())]}),
        ("move", {"filter": ""}),
    ],
)
def test_a_wrong_request_is_refused_and_changes_nothing(
    ada: Caller, birds: str, items: list[str], deed: str, body: dict[str, Any]
) -> None:
    before = ada.get(f"/collections/{birds}/items").json
    assert sent(ada, birds, deed, **body).status_code == 422
    assert ada.get(f"/collections/{birds}/items").json == before


def test_each_transaction_has_an_entry_in_the_audit_log(
    ada: Caller, birds: str, items: list[str], served: Services
) -> None:
    sent(ada, birds, "change", items=items[:2], change={"rating": 5})
    sent(ada, birds, "change", items=items[:2], change={"rating": 5})
    sent(ada, birds, "delete", items=items)
    with transaction(served.sessions) as session:
        found = sa.select(AuditEntry).where(AuditEntry.action.in_([Action.ITEMS_CHANGED, Action.ITEMS_DELETED]))
        entries = session.scalars(found.order_by(AuditEntry.id)).all()
    assert [(one.target, one.detail) for one in entries] == [
        ("Birds", {"count": 2, "items": items[:2], "changed": ["rating"]}),
        ("Birds", {"count": 3, "items": items}),
    ]
