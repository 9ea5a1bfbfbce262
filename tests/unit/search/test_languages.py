"""Each collection has the language of its texts and captions; full-text search stems words in that language."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from tests.unit.search.test_captions import Shelf

from retllm.db.enums import ItemKind
from retllm.db.locks import lock_collection
from retllm.db.session import Sessions, transaction
from retllm.db.tables import ITEM_WORDS, Collection, Item, new_id
from retllm.errors import Conflict
from retllm.media import records
from retllm.review.marks import Asked, find_items
from retllm.search.languages import change_language, languages


@pytest.fixture
def shelf(fresh_sessions: Sessions) -> Shelf:
    return Shelf(fresh_sessions)


def speak(shelf: Shelf, language: str) -> None:
    with transaction(shelf.sessions) as session:
        change_language(session, session.get_one(Collection, shelf.here.id), language)


def test_a_collection_is_english_until_it_is_changed(shelf: Shelf) -> None:
    """English does not stem "Häuser", and German does not stem "circling"."""
    houses, birds = shelf.add("Zwei alte Häuser am Hafen"), shelf.add("two circling birds")
    assert shelf.found("das Haus") == []
    assert shelf.found("circle") == [birds]
    speak(shelf, "german")
    assert shelf.found("das Haus") == [houses]
    assert shelf.found("circle") == []
    speak(shelf, "english")
    assert shelf.found("circle") == [birds]


def test_new_and_changed_texts_are_stemmed_in_the_language_of_their_collection(shelf: Shelf) -> None:
    speak(shelf, "german")
    houses = shelf.add("Häuser")
    shelf.add("Häuser", elsewhere=True)
    caption = shelf.add("nichts")
    assert shelf.found("Haus") == [houses]
    with transaction(shelf.sessions) as session:
        records.set_captions(session, {caption: records.Caption("hinter den Häusern")})
    assert set(shelf.found("Haus")) == {houses, caption}
    with transaction(shelf.sessions) as session:
        records.empty_item(session, houses)
    assert shelf.found("Haus") == [caption]
    with shelf.sessions() as session:
        words = session.scalars(sa.select(ITEM_WORDS).where(Item.collection_id == shelf.there.id)).one()
    assert words == "'häuser':1", "the other collection is English"


def test_the_simple_language_compares_whole_words(shelf: Shelf) -> None:
    speak(shelf, "simple")
    item = shelf.add("the birds")
    assert shelf.found("bird") == []
    assert shelf.found("BIRDS") == [item]
    assert shelf.found("the") == [item], "there are no stop words"


@pytest.mark.parametrize("name", ["klingon", "", "English", "pg_catalog.english", "english'; DROP TABLE items; --"])
def test_a_language_that_the_server_does_not_know_is_refused_with_a_list(shelf: Shelf, name: str) -> None:
    with pytest.raises(Conflict, match=r"Choose one of: .*english.*german.*simple") as caught:
        speak(shelf, name)
    assert caught.value.detail["field"] == "language"
    with shelf.sessions() as session:
        assert {"english", "french", "german", "simple"} <= set(languages(session))
        assert session.get_one(Collection, shelf.here.id).language == "english"


@pytest.fixture
def own_words(shelf: Shelf) -> Iterator[str]:
    """A text search configuration whose name needs quotes."""
    name = '"our o\'words"'
    with transaction(shelf.sessions) as session:
        session.execute(sa.text(f"CREATE TEXT SEARCH CONFIGURATION {name} (COPY = german)"))
    yield name
    with transaction(shelf.sessions) as session:
        session.execute(sa.text(f"DROP TEXT SEARCH CONFIGURATION {name}"))


def test_a_language_of_the_server_s_own_can_be_used(shelf: Shelf, own_words: str) -> None:
    houses = shelf.add("Häuser")
    speak(shelf, own_words)
    assert shelf.found("Haus") == [houses]
    later = shelf.add("hinter Häusern")
    assert set(shelf.found("Haus")) == {houses, later}
    with shelf.sessions() as session:
        assert {item.id for item in _found(session, shelf, "Haus")} == {houses, later}


def _found(session: sa.orm.Session, shelf: Shelf, text: str) -> list[Item]:
    return find_items(session, Asked(new_id(), [shelf.here.id], "-"), text)


def test_the_search_for_items_to_mark_uses_the_language_too(shelf: Shelf) -> None:
    houses = shelf.add("Zwei Häuser")
    with shelf.sessions() as session:
        assert _found(session, shelf, "Haus") == []
    speak(shelf, "german")
    with shelf.sessions() as session:
        assert [item.id for item in _found(session, shelf, "Haus")] == [houses]


def _wait_for_a_lock(sessions: Sessions) -> None:
    """Wait until another transaction of this database waits for a lock."""
    waiting = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    pause = threading.Event()
    for _ in range(6000):
        with sessions() as session:
            if session.scalar(waiting):
                return
        pause.wait(0.01)
    raise AssertionError("no transaction waits for a lock")


def test_a_text_that_is_added_during_the_change_gets_the_new_language(shelf: Shelf) -> None:
    """Whoever adds items locks the collection first, and so waits for the change or is waited for."""
    with transaction(shelf.sessions) as adding:
        lock_collection(adding, shelf.here.id)
        thread = threading.Thread(target=speak, args=(shelf, "german"))
        thread.start()
        _wait_for_a_lock(shelf.sessions)
        added = Item(
            id=new_id(),
            collection_id=shelf.here.id,
            kind=ItemKind.TEXT,
            name="x",
            content_sha256="0" * 64,
            text="Häuser",
            size_bytes=1,
        )
        adding.add(added)
        adding.flush()
        key = added.id
    thread.join()
    assert shelf.found("Haus") == [key]
