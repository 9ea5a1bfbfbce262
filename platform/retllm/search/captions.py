"""Search for items whose texts, or the texts in whose pictures, share words with the query, by full-text search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import TSQUERY
from sqlalchemy.orm import Session

from retllm.db.enums import ItemKind, ItemState
from retllm.db.tables import ITEM_WORDS, Collection, Item, has_searched_text, words_of

# distinct words of a typical caption; below this number, the length of a text hardly counts
_COMMON_LENGTH = 10


@dataclass(frozen=True)
class CaptionMatch:
    """An item that contains words of the query: the score of its text (0 or more) and its rank, 1 for the best."""

    item_id: UUID
    score: float
    rank: int


def any_word(text: str, language: str) -> sa.ColumnElement[Any]:
    """Return a tsquery that matches any word of ``text``; it is SQL NULL if ``text`` has only stop words.

    ``language`` is that of the collection (:mod:`retllm.search.languages`).

    The server builds the query from the lexemes that it finds in the text. User input is only ever an argument of
    ``to_tsvector``, so operators in it are parsed as words or ignored and can't cause a syntax error.
    """
    lexeme = sa.func.unnest(sa.func.tsvector_to_array(words_of(language, text))).column_valued("lexeme")
    # inside a quoted tsquery operand, only these two characters are special; doubling escapes them
    doubled = sa.func.replace(sa.func.replace(lexeme, "\\", "\\\\"), "'", "''")
    operands = sa.select(sa.func.string_agg(sa.func.concat("'", doubled, "'"), " | "))
    return sa.cast(operands.scalar_subquery(), TSQUERY)


def count_captions(
    session: Session, collection_id: UUID, kinds: Sequence[ItemKind], where: Sequence[sa.ColumnElement[bool]] = ()
) -> int:
    """Return the number of items of these kinds that have a text, also in their picture, and can be found."""
    query = sa.select(sa.func.count()).where(*_searchable(collection_id, kinds), *where, has_searched_text())
    return session.scalar(query) or 0


def _searchable(collection_id: UUID, kinds: Sequence[ItemKind]) -> tuple[sa.ColumnElement[bool], ...]:
    return Item.collection_id == collection_id, Item.state == ItemState.READY, Item.kind.in_(list(kinds))


def by_captions_of_all(
    session: Session,
    collections: Sequence[Collection],
    text: str,
    n: int,
    kinds: Sequence[ItemKind],
    where: Sequence[sa.ColumnElement[bool]] = (),
) -> list[CaptionMatch]:
    """Return up to ``n`` items of all the collections together, see :func:`by_captions`.

    A score depends only on the query and on the text, so those of different collections are comparable.
    """
    found = [match for one in collections for match in by_captions(session, one, text, n, kinds, where)]
    found.sort(key=lambda match: (-match.score, match.item_id))
    return [CaptionMatch(match.item_id, match.score, rank) for rank, match in enumerate(found[:n], start=1)]


def by_captions(
    session: Session,
    collection: Collection,
    text: str,
    n: int,
    kinds: Sequence[ItemKind],
    where: Sequence[sa.ColumnElement[bool]] = (),
) -> list[CaptionMatch]:
    """Return up to ``n`` items whose texts match the words of the query best; items without a match are left out.

    One matching word is enough, since few captions contain all words of a long query; the score ranks texts with more
    matches higher. The score is ``ts_rank``, which grows with the share of the query's words in the text and, with
    diminishing weight, with repeated words. (``ts_rank_cd`` measures the distance between the words of a conjunction;
    for a disjunction it only counts occurrences, so one word three times would beat two words.) The score is divided by
    ``1 + ln(1 + length / 10)``, where the length is the number of distinct words: a long text contains more words of
    any query by chance. The built-in divisors of ts_rank, the length or its logarithm, are 1 for a text of one word and
    large for a sentence, so "boat" would beat "a red boat by the harbour" for the query "red boat".

    Args:
        text: query text; words are stemmed in the language of the collection.
        n: maximum number of items.
        kinds: kinds of items to consider; items without a text, also in their picture, are never found.
        where: further conditions on the items.
    """
    query = (
        sa.select(any_word(text, collection.language).label("words"))
        .cte("query")
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )
    length = 1 + sa.func.ln(1 + sa.cast(sa.func.length(ITEM_WORDS), sa.Double) / _COMMON_LENGTH)
    score = (sa.func.ts_rank(ITEM_WORDS, query.c.words) / length).label("score")
    ranked = (
        sa.select(Item.id, score)
        .join(query, ITEM_WORDS.op("@@")(query.c.words))
        .where(*_searchable(collection.id, kinds), *where)
        .order_by(score.desc(), Item.id)
        .limit(n)
    )
    return [CaptionMatch(row.id, float(row.score), rank) for rank, row in enumerate(session.execute(ranked), start=1)]
