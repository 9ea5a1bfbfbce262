"""Scores of pairs that were judged before: the same contents in another search, job or collection cost nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, undefer

from retllm.db.tables import CachedScore, Item, Search

_JUDGED = ("score", "log_odds", "entropy", "injected_layer", "uncertainty", "tokens")
# deleted in one transaction
_PRUNED_AT_ONCE = 10_000

Columns = dict[str, Any]


def key_of(version: str, search: Search, item: Item) -> str:
    """The name of a pair's score: a hash of the scorer's version and of what both sides hold, not of where they are."""
    pair = [
        version,
        search.query_picture_sha256,
        search.query_text,
        item.content_sha256 if item.picture_key else None,
        item.text,
    ]
    return hashlib.blake2b(json.dumps(pair).encode(), digest_size=20).hexdigest()


def look_up(session: Session, keys: list[str], *, traced: bool) -> dict[str, Columns]:
    """The columns of the scores that are known, by key.

    With ``traced``, only those that have a trace, which comes with them.
    """
    query = sa.select(CachedScore).where(CachedScore.key.in_(keys))
    if traced:
        query = query.where(CachedScore.trace.is_not(None)).options(undefer(CachedScore.trace))
    names = (*_JUDGED, "trace") if traced else _JUDGED
    return {row.key: {name: getattr(row, name) for name in names} for row in session.scalars(query)}


def keep(session: Session, scores: Mapping[str, Columns]) -> None:
    """Remember scores by their keys; of one that is there already only a missing trace is added."""
    rows = [{"key": key, "trace": None, **columns} for key, columns in sorted(scores.items())]
    if not rows:
        return
    # all in the order of their keys, so that two workers never wait for each other in a circle
    statement = insert(CachedScore).values(rows)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["key"],
            set_={"trace": statement.excluded.trace},
            where=sa.and_(CachedScore.trace.is_(None), statement.excluded.trace.is_not(None)),
        )
    )


def prune(session: Session, most: int) -> int:
    """Forget the oldest scores beyond ``most``, some at a time; returns how many went."""
    # a common table expression is evaluated once; of a subquery that is not certain
    beyond = (
        sa.select(CachedScore.key)
        .order_by(CachedScore.created_at.desc(), CachedScore.key)
        .offset(most)
        .limit(_PRUNED_AT_ONCE)
        .with_for_update(skip_locked=True)
        .cte("beyond")
    )
    gone = session.scalars(
        sa.delete(CachedScore).where(CachedScore.key.in_(sa.select(beyond.c.key))).returning(CachedScore.key)
    )
    return len(gone.all())
