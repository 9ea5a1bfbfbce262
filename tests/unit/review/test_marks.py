"""Marks in a real database: who may set them, which one counts, and which searches share them."""

from __future__ import annotations

import uuid

import pytest
import sqlalchemy as sa
from tests.unit.review.conftest import World

from retllm.db.enums import ItemState, Visibility
from retllm.db.jobs import Job
from retllm.db.reviews import Judgment
from retllm.db.session import transaction
from retllm.db.tables import Collection, Item, new_id
from retllm.errors import Conflict, InvalidInput, NotFound
from retllm.review import marks


def _set(world: World, search: uuid.UUID, place: int, relevant: bool | None, user=None) -> None:
    with transaction(world.sessions) as session:
        marks.set_mark(session, user or world.ada, search, world.items[place], relevant)


def _marks(world: World, search: uuid.UUID) -> list[tuple[uuid.UUID, bool, str | None]]:
    with world.sessions() as session:
        found = marks.marks_of(session, marks.asked_by(session, world.ada, search))
    return [(one.item_id, one.relevant, one.user_name) for one in found]


def _open_to_everyone(world: World) -> None:
    with transaction(world.sessions) as session:
        session.get_one(Collection, world.collection_id).visibility = Visibility.EVERYONE


def test_the_last_mark_counts_whoever_made_it(world):
    _open_to_everyone(world)
    search = world.search("a bird", [0, 1], [1, 0])
    _set(world, search, 0, True)
    _set(world, search, 0, False, world.bob)
    assert _marks(world, search) == [(world.items[0], False, "bob")]
    _set(world, search, 0, None)
    assert _marks(world, search) == []
    # removing a mark that does not exist is not an error
    _set(world, search, 0, None)


def test_searches_with_the_same_query_share_their_marks_and_others_do_not(world):
    first, second = world.search("a bird", [0], [0]), world.search("a bird", [1], None, mode="choice")
    other = world.search("another bird", [0], [0])
    _set(world, first, 0, True)
    assert _marks(world, second) == _marks(world, first) == [(world.items[0], True, "ada")]
    assert _marks(world, other) == []


def test_the_same_query_in_another_collection_has_its_own_marks(world):
    with transaction(world.sessions) as session:
        elsewhere = Collection(id=new_id(), owner_id=world.ada.id, name="elsewhere")
        session.add(elsewhere)
    here, there = world.search("a bird", [0], [0]), world.search("a bird", [], [], collection_id=elsewhere.id)
    _set(world, here, 0, True)
    assert _marks(world, there) == []
    with pytest.raises(NotFound, match="no such item"):
        _set(world, there, 0, True)


def test_an_item_that_was_not_found_can_be_marked(world):
    search = world.search("a bird", [0], [0])
    _set(world, search, 7, True)
    assert _marks(world, search) == [(world.items[7], True, "ada")]


def test_marks_outlive_the_search_that_they_were_made_on(world):
    first, second = world.search("a bird", [0], [0]), world.search("a bird", [0], [0])
    _set(world, first, 0, True)
    with transaction(world.sessions) as session:
        session.delete(session.get_one(Job, first))
    assert _marks(world, second) == [(world.items[0], True, "ada")]


def test_an_account_that_may_not_see_the_collection_cannot_mark(world):
    search = world.search("a bird", [0], [0])
    with pytest.raises(NotFound, match="no such job"):
        _set(world, search, 0, True, world.bob)
    _open_to_everyone(world)
    _set(world, search, 0, True, world.bob)


def test_a_deleted_item_cannot_be_marked_but_its_mark_can_be_removed(world):
    search = world.search("a bird", [0], [0])
    _set(world, search, 0, True)
    with transaction(world.sessions) as session:
        session.get_one(Item, world.items[0]).state = ItemState.DELETED
    with pytest.raises(Conflict, match="deleted"):
        _set(world, search, 0, False)
    _set(world, search, 0, None)
    assert _marks(world, search) == []


def test_the_number_of_marks_of_a_query_is_limited(world, monkeypatch):
    monkeypatch.setattr(marks, "MAX_MARKS", 2)
    search = world.search("a bird", [0], [0])
    for place in (0, 1):
        _set(world, search, place, True)
    with pytest.raises(Conflict, match="the maximum"):
        _set(world, search, 2, True)
    # an existing mark can still be changed
    _set(world, search, 0, False)
    with world.sessions() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Judgment)) == 2


def _find(world: World, wanted: str) -> list[str]:
    search = world.search("a bird", [], [])
    with world.sessions() as session:
        return [item.name for item in marks.find_items(session, marks.asked_by(session, world.ada, search), wanted)]


def test_items_are_found_by_key_by_name_and_by_words(world):
    assert _find(world, str(world.items[3])) == ["item 3"]
    assert _find(world, "ITEM 1") == ["item 11", "item 10", "item 1"]
    # stemmed, as captions are searched
    assert _find(world, "owl") == ["item 3"]
    assert _find(world, "item_3") == []
    assert _find(world, "100 %") == []
    with pytest.raises(InvalidInput):
        _find(world, " \0")


def test_items_of_other_collections_are_not_found(world):
    with transaction(world.sessions) as session:
        elsewhere = Collection(id=new_id(), owner_id=world.ada.id, name="elsewhere")
        session.add(elsewhere)
    search = world.search("a bird", [], [], collection_id=elsewhere.id)
    with world.sessions() as session:
        asked = marks.asked_by(session, world.ada, search)
        assert marks.find_items(session, asked, str(world.items[3])) == []
        assert marks.find_items(session, asked, "owl") == []
