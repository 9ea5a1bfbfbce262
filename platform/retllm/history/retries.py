"""How far the last retry of an upload is: what was done before it is no part of this."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import OPEN_UNITS, UnitState
from retllm.db.jobs import Unit

RETRY = "retry"
"""The pass of the units of files that are tried again, with its number behind it."""


def retries(session: Session, job_ids: Sequence[UUID]) -> dict[UUID, tuple[int, int]]:
    """Return of each job that was retried how many items of the last retry are done, and of how many.

    The units of a retry are those of its pass, all that were made after these, and earlier ones that are open again.
    """
    if not job_ids:
        return {}
    return {job_id: (done, total) for job_id, done, total in session.execute(_query(), {"job_ids": job_ids})}


@cache
def _query() -> sa.Select[UUID, int, int]:
    label = Unit.payload["pass"].astext
    first = (
        sa.select(Unit.job_id, sa.func.min(Unit.id.cast(sa.Text)).label("first"))
        # an index has the units of passes
        .where(
            Unit.job_id.in_(sa.bindparam("job_ids", expanding=True)),
            Unit.payload.has_key("pass"),
            label.startswith(f"{RETRY}-"),
        )
        .group_by(Unit.job_id, label)
        .subquery()
    )
    last = sa.select(first.c.job_id, sa.func.max(first.c.first).label("first")).group_by(first.c.job_id).subquery()
    length = sa.func.coalesce(sa.func.jsonb_array_length(Unit.payload["items"]), 0)
    # units of another pass have files that are counted already
    counts = sa.or_(label.is_(None), label.startswith(f"{RETRY}-"))
    return (
        sa.select(
            Unit.job_id,
            sa.func.coalesce(sa.func.sum(length).filter(Unit.state == UnitState.DONE), 0),
            sa.func.sum(length),
        )
        .join(last, last.c.job_id == Unit.job_id)
        .where(
            sa.or_(Unit.id.cast(sa.Text) >= last.c.first, Unit.state.in_(OPEN_UNITS)),
            Unit.state != UnitState.SPLIT,
            counts,
        )
        .group_by(Unit.job_id)
    )
