"""Captions are found by words, whatever characters a query has; those with more of the words rank first."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from uuid import UUID

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from retllm.db.enums import ItemKind, ItemState
from retllm.db.session import Sessions, make_sessions, transaction
from retllm.db.tables import ITEM_WORDS, Collection, Item, new_id
from retllm.identity import accounts
from retllm.search.captions import any_word, by_captions

ALL = list(ItemKind)


class Shelf:
    """Captioned items in two collections."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions
        with transaction(sessions) as session:
            user = accounts.create_user(session, "ada", "a-long-password")
            self.here, self.there = (Collection(id=new_id(), owner_id=user.id, name=name) for name in ("here", "there"))
            session.add_all([self.here, self.there])

    def add(self, text: str | None, kind: ItemKind = ItemKind.BOTH, *, elsewhere: bool = False) -> UUID:
        item = Item(
            id=new_id(),
            collection_id=self.there.id if elsewhere else self.here.id,
            kind=kind,
            name="x",
            content_sha256=hashlib.sha256(new_id().bytes).hexdigest(),
            text=text,
            size_bytes=1,
        )
        with transaction(self.sessions) as session:
            session.add(item)
        return item.id

    def found(self, text: str, n: int = 10, kinds: list[ItemKind] = ALL) -> list[UUID]:
        with self.sessions() as session:
            matches = by_captions(session, session.get_one(Collection, self.here.id), text, n, kinds)
        assert [match.rank for match in matches] == list(range(1, len(matches) + 1))
        scores = [match.score for match in matches]
        assert scores == sorted(scores, reverse=True)
        return [match.item_id for match in matches]


@pytest.fixture
def shelf(fresh_sessions: Sessions) -> Shelf:
    return Shelf(fresh_sessions)


def test_a_caption_is_found_by_any_word_of_the_query_in_any_form(shelf: Shelf) -> None:
    birds = shelf.add("Two birds circling over the harbour")
    shelf.add("A tiled roof")
    assert shelf.found("where does the bird circle, and why would anybody be looking for it in winter") == [birds]


def test_several_different_words_rank_above_one_repeated_word(shelf: Shelf) -> None:
    """This is why ts_rank is used: ts_rank_cd counts positions."""
    again = shelf.add("harbour harbour harbour harbour")
    several = shelf.add("an old lighthouse near the harbour at night")
    one = shelf.add("a fishing boat leaves the harbour at dawn")
    query = "lighthouse at the harbour by night"
    assert shelf.found(query) == [several, again, one]
    with shelf.sessions() as session:
        by_places = sa.func.ts_rank_cd(ITEM_WORDS, any_word(query, "english"))
        assert session.scalars(sa.select(Item.id).order_by(by_places.desc()).limit(1)).one() == again


def test_the_shorter_of_two_texts_with_the_same_words_ranks_first(shelf: Shelf) -> None:
    chapter = shelf.add("a red boat and a yellow house " + " ".join(f"word{n}" for n in range(200)))
    caption = shelf.add("a red boat beside a yellow house, seen from the hill at noon")
    assert shelf.found("red boat, yellow house") == [caption, chapter]


def test_a_caption_with_all_words_ranks_above_a_caption_of_one_word(shelf: Shelf) -> None:
    """This is why ts_rank's own divisors are not used: with each of them the single word ranks first."""
    word = shelf.add("boat")
    caption = shelf.add("a red boat in the old harbour of a small town at noon")
    assert shelf.found("red boat") == [caption, word]
    with shelf.sessions() as session:
        for divisor in (1, 2, 8, 16):
            rank = sa.func.ts_rank(ITEM_WORDS, any_word("red boat", "english"), divisor)
            assert session.scalars(sa.select(Item.id).order_by(rank.desc()).limit(1)).one() == word


def test_only_ready_items_of_the_collection_and_the_kinds_are_found(shelf: Shelf) -> None:
    picture = shelf.add("a red boat")
    text = shelf.add("a red boat", ItemKind.TEXT)
    shelf.add("a red boat", elsewhere=True)
    shelf.add(None, ItemKind.IMAGE)
    gone = shelf.add("a red boat")
    with transaction(shelf.sessions) as session:
        session.execute(sa.update(Item).where(Item.id == gone).values(state=ItemState.DELETED))
    assert shelf.found("boat") == [picture, text]
    assert shelf.found("boat", kinds=[ItemKind.TEXT]) == [text]
    assert shelf.found("boat", kinds=[ItemKind.IMAGE]) == []
    assert shelf.found("boat", n=1) == [picture]


@pytest.mark.parametrize("text", ["", "the of and", "!!! ... ???", "🙂", "' | ''"])
def test_a_query_without_search_words_finds_nothing(shelf: Shelf, text: str) -> None:
    shelf.add("the red boat and the house")
    assert shelf.found(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "boat & zebra",
        "!boat",
        "boat:*",
        "'boat",
        "boat'; DROP TABLE items; --",
        "\\boat\\",
        "<-> boat (",
        "boat | !boat",
    ],
)
def test_operators_of_the_query_language_have_no_effect_in_a_query(shelf: Shelf, text: str) -> None:
    boat = shelf.add("a red boat")
    shelf.add("a yellow house")
    assert shelf.found(text) == [boat]


def test_a_word_does_not_match_as_a_prefix(shelf: Shelf) -> None:
    shelf.add("a carpet")
    assert shelf.found("car:*") == []


@pytest.fixture(scope="module")
def session(database_url: str) -> Iterator[sa.orm.Session]:
    sessions = make_sessions(database_url)
    with sessions() as session:
        yield session
    sessions.kw["bind"].dispose()


# letters, operators and quotes of tsquery, and characters of addresses, paths and numbers for the parser
_SIGNS = st.text(st.sampled_from("ab'\\&|!():*<->\"/.@-_ 1\n"), max_size=30)
_ANY = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=30)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(_SIGNS, _ANY))
@example("/a\\b'c http://a.b/c?d='e'&f=\\g\\ 'x' well-known o'clock a@b.cd -1.5e3 <b>'</b>")
def test_the_query_has_exactly_the_lexemes_that_the_server_finds_in_the_text(
    session: sa.orm.Session, text: str
) -> None:
    """They are its only operands, joined by OR."""
    lexemes = session.scalar(sa.select(sa.func.tsvector_to_array(sa.func.to_tsvector("english", text))))
    query = any_word(text, "english")
    assert session.scalar(sa.select(sa.func.numnode(query))) == (2 * len(lexemes) - 1 if lexemes else None)
    for lexeme in lexemes:
        vector = sa.func.array_to_tsvector(sa.cast([lexeme], sa.ARRAY(sa.Text)))
        assert session.scalar(sa.select(vector.op("@@")(query)))
