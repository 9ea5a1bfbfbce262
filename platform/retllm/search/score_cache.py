"""Cache of scores by content: the same pair in another search, job or collection is not scored again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, undefer

from retllm.db.searches import CachedScore, Search
from retllm.db.tables import Item

_COLUMNS = ("score", "log_odds", "entropy", "injected_layer", "uncertainty", "tokens", "remark")
# rows deleted in one transaction
_PRUNE_BATCH = 10_000

Columns = dict[str, Any]


def key_of(version: str, search: Search, item: Item) -> str:
    """Return the cache key of a pair: a hash of the scorer version and of the contents of both sides."""
    pair = [
        version,
        search.query_picture_sha256,
        search.query_text,
        item.content_sha256 if item.picture_key else None,
        item.text,
    ]
    return hashlib.blake2b(json.dumps(pair).encode(), digest_size=20).hexdigest()


def look_up(session: Session, keys: list[str], *, traced: bool) -> dict[str, Columns]:
    """Return the columns of the cached scores, by key.

    With ``traced``, return only scores with a trace, and the traces.
    """
    query = sa.select(CachedScore).where(CachedScore.key.in_(keys))
    if traced:
        query = query.where(CachedScore.trace.is_not(None)).options(undefer(CachedScore.trace))
    names = (*_COLUMNS, "trace") if traced else _COLUMNS
    return {row.key: {name: getattr(row, name) for name in names} for row in session.scalars(query)}


def keep(session: Session, scores: Mapping[str, Columns]) -> None:
    """Store scores by key; an existing score only gets its missing trace."""
    rows = [{"key": key, "trace": None, **columns} for key, columns in sorted(scores.items())]
    if not rows:
        return
    # sorted by key, so that two workers can't deadlock
    statement = insert(CachedScore).values(rows)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["key"],
            set_={"trace": statement.excluded.trace},
            where=sa.and_(CachedScore.trace.is_(None), statement.excluded.trace.is_not(None)),
        )
    )


def prune(session: Session, limit: int) -> int:
    """Delete a batch of the oldest scores beyond ``limit``; return the number deleted."""
    # a common table expression is evaluated exactly once; a subquery may not be
    beyond = (
        sa.select(CachedScore.key)
        .order_by(CachedScore.created_at.desc(), CachedScore.key)
        .offset(limit)
        .limit(_PRUNE_BATCH)
        .with_for_update(skip_locked=True)
        .cte("beyond")
    )
    deleted = session.scalars(
        sa.delete(CachedScore).where(CachedScore.key.in_(sa.select(beyond.c.key))).returning(CachedScore.key)
    )
    return len(deleted.all())
