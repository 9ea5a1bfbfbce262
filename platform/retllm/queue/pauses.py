"""Paused queues and ready units. A pause is a row in PostgreSQL that every claim checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import UnitState
from retllm.db.operations import PausedQueue
from retllm.db.tables import Unit, User
from retllm.queue.routing import Notification, Routing, scorer_of, stage_of


@dataclass(frozen=True)
class Pause:
    """Why a queue is paused; ``by`` is None if that account was deleted."""

    queue: str
    since: datetime
    by: str | None
    reason: str


def paused(session: Session) -> dict[str, Pause]:
    """Return the paused queues by name."""
    query = sa.select(PausedQueue, User.name).outerjoin(User, User.id == PausedQueue.user_id)
    return {row.queue: Pause(row.queue, row.created_at, by, row.reason) for row, by in session.execute(query)}


def is_paused(session: Session, queue: str) -> bool:
    """Return whether ``queue`` is paused."""
    return session.scalar(sa.select(PausedQueue.queue).where(PausedQueue.queue == queue)) is not None


def take_ready(
    session: Session, routing: Routing, queue: str, limit: int, *where: sa.ColumnElement[bool]
) -> list[Notification]:
    """Select claimable units of ``queue``, longest waiting first, and set ``announced_at``."""
    # a common table expression is evaluated once; a subquery may be evaluated for each row, and would then skip the
    # rows just updated and take others beyond the limit
    first = (
        sa.select(Unit.id)
        .where(*is_ready(routing, queue), Unit.run_after <= sa.func.now(), *where)
        .order_by(Unit.run_after, Unit.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("first")
    )
    taken = session.scalars(
        sa.update(Unit)
        .where(Unit.id.in_(sa.select(first.c.id)))
        .values(announced_at=sa.func.now())
        .returning(Unit.id)
        .execution_options(synchronize_session=False)
    )
    return [Notification(unit_id, stage_of(queue), scorer_of(queue)) for unit_id in taken]


def is_ready(routing: Routing, queue: str) -> Sequence[sa.ColumnElement[bool]]:
    """Return the conditions for ready units of a queue."""
    return *routing.within(queue), Unit.state == UnitState.READY
