"""The items of a collection whose texts share words with the query, by Postgres full text search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import REGCONFIG, TSQUERY
from sqlalchemy.orm import Session

from retllm.db.enums import ItemKind, ItemState
from retllm.db.tables import ITEM_WORDS, Item

# the configuration that items.words is kept in
_LANGUAGE = "english"
# different words that a caption commonly has; below it, a text's length hardly counts
_COMMON_LENGTH = 10


@dataclass(frozen=True)
class CaptionMatch:
    """An item that has words of the query: the score of its text (0 or more) and its rank, 1 for the best."""

    item_id: UUID
    score: float
    rank: int


def any_word(text: str) -> sa.ColumnElement[Any]:
    """A tsquery that is true for what has any word of ``text``; SQL's NULL if only stop words are left of it.

    It is put together by the server out of the lexemes that the server itself finds in the text. What a person writes
    is only ever the argument of ``to_tsvector``: operators in it are words or nothing, and can't be an error.
    """
    language = sa.cast(sa.literal(_LANGUAGE), REGCONFIG)
    lexeme = sa.func.unnest(sa.func.tsvector_to_array(sa.func.to_tsvector(language, text))).column_valued("lexeme")
    # a quoted operand of a tsquery: within the quotes only these two signs mean anything, and each is doubled
    doubled = sa.func.replace(sa.func.replace(lexeme, "\\", "\\\\"), "'", "''")
    operands = sa.select(sa.func.string_agg(sa.func.concat("'", doubled, "'"), " | "))
    return sa.cast(operands.scalar_subquery(), TSQUERY)


def count_captions(session: Session, collection_id: UUID, kinds: Sequence[ItemKind]) -> int:
    """How many items of these kinds hold a text, and so could be found."""
    query = sa.select(sa.func.count()).where(*_belongs(collection_id, kinds), Item.text.is_not(None))
    return session.scalar(query) or 0


def _belongs(collection_id: UUID, kinds: Sequence[ItemKind]) -> tuple[sa.ColumnElement[bool], ...]:
    return Item.collection_id == collection_id, Item.state == ItemState.READY, Item.kind.in_(list(kinds))


def by_captions(
    session: Session, collection_id: UUID, text: str, n: int, kinds: Sequence[ItemKind]
) -> list[CaptionMatch]:
    """The ``n`` items whose texts answer the words of the query best; those with none of its words are left out.

    Any word is enough, since few captions have all words of a long query, and the score puts those with more of them
    first. It is ``ts_rank``, which grows with the share of the query's words that the text has, and with a word that
    comes again, each time less. (``ts_rank_cd`` measures how near the words of a conjunction stand to each other; when
    any word is enough it only counts places, so that one word three times beats two words.) It is divided by
    ``1 + ln(1 + length / 10)``, the length in different words: a long text has more words of any query by chance.
    ts_rank's own divisors, the length or its logarithm, are 1 for a text of one word and large for a sentence, so that
    "boat" would beat "a red boat by the harbour" for the query "red boat".

    Args:
        text: of the query, in any language; words are stemmed as English.
        n: most items to return.
        kinds: kinds of items to consider; what holds no text is never found.
    """
    asked = sa.select(any_word(text).label("words")).cte("asked").prefix_with("MATERIALIZED", dialect="postgresql")
    length = 1 + sa.func.ln(1 + sa.cast(sa.func.length(ITEM_WORDS), sa.Double) / _COMMON_LENGTH)
    score = (sa.func.ts_rank(ITEM_WORDS, asked.c.words) / length).label("score")
    ranked = (
        sa.select(Item.id, score)
        .join(asked, ITEM_WORDS.op("@@")(asked.c.words))
        .where(*_belongs(collection_id, kinds))
        .order_by(score.desc(), Item.id)
        .limit(n)
    )
    return [CaptionMatch(row.id, float(row.score), rank) for rank, row in enumerate(session.execute(ranked), start=1)]
