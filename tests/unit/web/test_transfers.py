"""Items are moved and copied into another collection with all that they are, and nothing is lost on the way."""

from __future__ import annotations

import io
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from flask_openapi import OpenAPI
from tests.unit.media.test_parts import pages
from tests.unit.web.conftest import Caller
from tests.unit.web.pictures import picture
from tests.unit.web.test_item_changes import added
from tests.unit.web.test_many_items import reasons, sent
from tests.unit.web.vectors import embed_items

from retllm.db.people import AuditEntry
from retllm.db.session import transaction
from retllm.db.tables import Embedding, Source
from retllm.errors import StorageFull
from retllm.identity.audit import Action
from retllm.media.storage import Storage
from retllm.queue.audit import violations
from retllm.queue.audit_files import orphans
from retllm.settings import Settings, public_name
from retllm_web.http.services import Services

# what belongs to the item in its collection
_OWN = ("id", "collection_id", "created_at", "version", "archive", "source")


@pytest.fixture
def shore(ada: Caller) -> str:
    """Another collection of ada's."""
    return str(ada.post("/collections", json={"name": "Shore"}).json["id"])


@pytest.fixture
def items(ada: Caller, birds: str) -> list[str]:
    """A picture with a caption and all facts, a picture without any, and a text."""
    found = [added(ada, birds, (f"a/{n}.png", picture(f"rgb({n},0,0)"))) for n in range(2)]
    facts = {
        "text": "a tern",
        "title": "A tern",
        "tags": ["sea", "bird"],
        "rating": 4,
        "taken": "2003-07-02T14:30:05+02:00",
        "camera": "X100",
        "lens": "50mm",
        "position": {"latitude": 48.1, "longitude": -11.5},
        "columns": {"Photographer": "Ann"},
    }
    assert ada.patch(f"/items/{found[0]}", json=facts).status_code == 200
    return [*found, added(ada, birds, ("note.txt", b"a note"))]


def listed(caller: Caller, collection: str) -> list[dict[str, Any]]:
    return list(caller.get(f"/collections/{collection}/items").json["items"])


def same(item: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name not in _OWN}


def assert_whole(served: Services) -> None:
    """All rows and files fit together, and no file is left over."""
    assert violations(served.sessions, served.storage) == []
    with transaction(served.sessions) as session:
        left = orphans(session, served.storage)
    assert [key for key in left if key.startswith(("items/", "sources/"))] == []


@pytest.mark.parametrize("deed", ["move", "copy"])
def test_an_item_comes_with_all_that_it_is(
    ada: Caller, birds: str, shore: str, items: list[str], served: Services, deed: str
) -> None:
    before = listed(ada, birds)
    files = [ada.get(f"/items/{one}/{part}").data for one in items[:2] for part in ("picture", "thumbnail")]
    answer = sent(ada, birds, deed, items=items, to=shore)
    assert answer.status_code == 200, answer.json
    assert (answer.json["done"], answer.json["skipped"]) == (items, [])
    after = listed(ada, shore)
    assert [one["id"] for one in after] == [answer.json["new"][old] for old in items]
    assert [same(one) for one in after] == [same(one) for one in before]
    new = [one["id"] for one in after]
    assert [ada.get(f"/items/{one}/{part}").data for one in new[:2] for part in ("picture", "thumbnail")] == files
    assert listed(ada, birds) == ([] if deed == "move" else before)
    assert ada.get(f"/items/{items[0]}").status_code == (404 if deed == "move" else 200)
    assert_whole(served)
    # each has files of its own
    sent(ada, shore, "delete", filter="")
    assert [one["id"] for one in listed(ada, birds)] == ([] if deed == "move" else items)
    assert_whole(served)


@pytest.mark.parametrize("deed", ["move", "copy"])
def test_vectors_come_with_their_items_unless_they_are_outdated(
    ada: Caller, birds: str, shore: str, items: list[str], served: Services, settings: Settings, deed: str
) -> None:
    model_id = embed_items(served, settings, birds, public_name(settings.embedder_name))
    # that of the old caption is not
    ada.patch(f"/items/{items[0]}", json={"text": "another tern"})
    new = sent(ada, birds, deed, items=items, to=shore).json["new"]
    assert [one["indexed"] for one in listed(ada, shore)] == [False, True, True]
    with transaction(served.sessions) as session:
        found = session.scalars(sa.select(Embedding.item_id).filter_by(collection_id=UUID(shore), model_id=model_id))
        assert set(found) == {UUID(new[one]) for one in items[1:]}
        left = session.scalars(sa.select(Embedding.item_id).filter_by(collection_id=UUID(birds)))
        assert len(left.all()) == (0 if deed == "move" else 3)
    assert ada.get(f"/collections/{shore}").json["items_indexed"] == 2
    assert_whole(served)


@pytest.mark.parametrize("deed", ["move", "copy"])
def test_what_the_other_collection_has_already_stays(
    ada: Caller, birds: str, shore: str, items: list[str], served: Services, deed: str
) -> None:
    """As for an upload, the content counts and not the name."""
    added(ada, shore, ("other name.png", picture("rgb(1,0,0)")))
    added(ada, shore, ("a/0.png", picture("white")))
    added(ada, shore, ("x.txt", b"a note"))
    answer = sent(ada, birds, deed, items=items, to=shore)
    assert answer.json["done"] == items[:1]
    assert reasons(answer) == dict.fromkeys(items[1:], "duplicate")
    assert [one["name"] for one in listed(ada, shore)] == ["other name.png", "a/0.png", "x.txt", "a/0.png"]
    assert [one["id"] for one in listed(ada, birds)] == (items[1:] if deed == "move" else items)
    again = sent(ada, birds, deed, items=items, to=shore)
    assert again.json["done"] == []
    assert_whole(served)


def test_pages_come_with_their_whole_file_and_leave_it_to_those_that_stay(
    ada: Caller, birds: str, shore: str, served: Services
) -> None:
    data = pages(3, "PDF")
    form = {"file": [(io.BytesIO(data), "scan.pdf")]}
    ada.post(f"/collections/{birds}/items?index=false", data=form, content_type="multipart/form-data")
    first, second, third = (one["id"] for one in listed(ada, birds))
    moved = sent(ada, birds, "move", items=[second], to=shore).json["new"][second]
    assert ada.get(f"/items/{moved}").json["part"]["page"] == 2
    assert ada.get(f"/items/{moved}/source").data == ada.get(f"/items/{first}/source").data == data
    assert_whole(served)
    both = sent(ada, birds, "move", items=[first, third], to=shore).json["new"]
    with transaction(served.sessions) as session:
        assert [one.collection_id for one in session.scalars(sa.select(Source))] == [UUID(shore)]
    assert ada.get(f"/items/{both[third]}").json["source"] == ada.get(f"/items/{moved}").json["source"]
    # a page that is there already brings no second file
    back = sent(ada, shore, "copy", items=[moved], to=birds).json["new"][moved]
    assert reasons(sent(ada, shore, "copy", items=[moved], to=birds)) == {moved: "duplicate"}
    assert ada.get(f"/items/{back}/source").data == data
    assert_whole(served)


def test_all_that_match_a_filter_are_moved(ada: Caller, birds: str, shore: str, items: list[str]) -> None:
    answer = sent(ada, birds, "move", filter="kind = text or rating >= 4", to=shore)
    assert answer.json["done"] == [items[0], items[2]]
    assert [one["id"] for one in listed(ada, birds)] == [items[1]]


def test_rights_in_both_collections_are_needed(
    ada: Caller, bob: Caller, birds: str, items: list[str], served: Services
) -> None:
    his = str(bob.post("/collections", json={"name": "His"}).json["id"])
    for deed in ("move", "copy"):
        # he can't see hers, nor she his
        assert sent(bob, birds, deed, items=items, to=his).status_code == 404
        assert sent(ada, birds, deed, items=items, to=his).status_code == 404
    ada.put(f"/collections/{birds}/visibility", json={"visibility": "everyone"})
    bob.put(f"/collections/{his}/visibility", json={"visibility": "everyone"})
    assert sent(ada, birds, "copy", items=items, to=his).status_code == 403
    assert sent(bob, birds, "move", items=items, to=his).status_code == 403
    assert listed(bob, his) == []
    # who sees an item could also download and upload it
    assert sent(bob, birds, "copy", items=items, to=his).json["done"] == items
    assert len(listed(ada, birds)) == 3
    assert_whole(served)


def test_a_collection_is_no_target_for_its_own_items(ada: Caller, birds: str, items: list[str]) -> None:
    answer = sent(ada, birds, "copy", items=items, to=birds)
    assert (answer.status_code, answer.json["error"]["code"]) == (409, "conflict")


def test_a_full_storage_leaves_all_as_it_was(
    ada: Caller, birds: str, shore: str, items: list[str], served: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, calls = Storage.copy, iter(range(100))

    def full(storage: Storage, source: str, key: str) -> None:
        if next(calls) == 2:
            raise StorageFull
        copy(storage, source, key)

    monkeypatch.setattr(Storage, "copy", full)
    assert sent(ada, birds, "move", items=items, to=shore).status_code == 507
    assert (len(listed(ada, birds)), listed(ada, shore)) == (3, [])
    assert_whole(served)


def test_both_collections_have_it_in_the_audit_log(
    ada: Caller, birds: str, shore: str, items: list[str], served: Services
) -> None:
    new = sent(ada, birds, "move", items=items, to=shore).json["new"]
    with transaction(served.sessions) as session:
        found = sa.select(AuditEntry).filter_by(action=Action.ITEMS_MOVED).order_by(AuditEntry.id)
        entries = [(str(one.collection_id), one.detail) for one in session.scalars(found)]
    assert entries == [
        (birds, {"count": 3, "items": items, "into": "Shore", "into_id": shore}),
        (shore, {"count": 3, "items": [new[one] for one in items], "out_of": "Birds", "out_of_id": birds}),
    ]


@pytest.mark.slow
def test_of_several_requests_at_once_each_item_is_moved_by_one(
    app: OpenAPI, ada: Caller, birds: str, shore: str, served: Services
) -> None:
    """Also if they go to different collections, and back."""
    items = [added(ada, birds, (f"{n}.png", picture(f"rgb({n},9,0)"))) for n in range(12)]
    inland = str(ada.post("/collections", json={"name": "Inland"}).json["id"])
    there = added(ada, shore, ("there.png", picture("white")))

    def request(number: int) -> Any:
        caller = Caller(app.test_client(), ada.user, ada.token)
        if number == 0:
            return sent(caller, shore, "move", items=[there], to=birds)
        if number == 1:
            return sent(caller, birds, "delete", items=items[:2])
        return sent(caller, birds, "move", items=items, to=(shore, inland)[number % 2])

    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(request, range(6)))
    assert {answer.status_code for answer in answers} == {200}
    done = Counter(key for answer in answers for key in answer.json["done"])
    assert done == dict.fromkeys([*items, there], 1)
    names = [one["name"] for collection in (birds, shore, inland) for one in listed(ada, collection)]
    deleted = set(items[:2]) & set(answers[1].json["done"])
    assert len(names) == len(set(names)) == 13 - len(deleted)
    assert_whole(served)
