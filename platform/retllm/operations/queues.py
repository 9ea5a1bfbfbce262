"""Queues: their depths, and pausing them. A pause is a row in PostgreSQL that every claim checks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from retllm.db.enums import Stage, UnitState
from retllm.db.operations import PausedQueue
from retllm.db.tables import Unit
from retllm.errors import NotFound
from retllm.identity.actor import Actor
from retllm.queue.notifications import FIRST_NOTIFIED, QUEUE_OF, Notification
from retllm.queue.pauses import Pause, is_ready, paused, take_ready

QUEUES = ("query", "media", "embed", "score")
MEANING = {
    "query": "coarse stage of searches: embeds the query and finds the nearest items",
    "media": "uploads: unpacks archives, decodes pictures, reads captions",
    "embed": "index jobs and uploads: embeds items",
    "score": "fine stage of searches: scores candidates",
}
MAX_COUNTED = 10_000
"""Upper bound of the counts of ready units."""

STAGE_OF = {queue: stage for stage, queue in QUEUE_OF.items()}


@dataclass(frozen=True)
class Queue:
    """The state of a queue in the database.

    ``waiting`` units may be claimed now, ``later`` ones wait for their retry; each count is at most ``MAX_COUNTED``.
    ``at_work`` units are leased. ``oldest`` is the time since which the longest waiting unit may be claimed.
    """

    name: str
    waiting: int
    later: int
    at_work: int
    oldest: datetime | None
    pause: Pause | None

    @property
    def meaning(self) -> str:
        """What its workers do."""
        return MEANING[self.name]


def require_queue(name: str) -> str:
    """Return ``name`` if there is such a queue.

    Raises:
        NotFound: there is none.
    """
    if name not in QUEUES:
        raise NotFound(f"There is no queue of that name. The queues are {', '.join(QUEUES)}.")
    return name


def pause(session: Session, actor: Actor, queue: str, reason: str = "") -> bool:
    """Stop claims from ``queue``; workers finish the units that they hold. Return false if it was already paused.

    Raises:
        NotFound: there is no such queue.
    """
    row = {"queue": require_queue(queue), "user_id": actor.id, "reason": reason}
    inserted = session.execute(
        insert(PausedQueue).values(row).on_conflict_do_nothing().returning(PausedQueue.queue)
    ).scalar_one_or_none()
    return inserted is not None


def resume(session: Session, queue: str) -> tuple[bool, list[Notification]]:
    """Allow claims from ``queue`` again.

    Returns whether it was paused, and the units to notify workers of after the commit.

    Raises:
        NotFound: there is no such queue.
    """
    deleted = session.execute(
        sa.delete(PausedQueue).where(PausedQueue.queue == require_queue(queue)).returning(PausedQueue.queue)
    ).scalar_one_or_none()
    if deleted is None:
        return False, []
    return True, take_ready(session, STAGE_OF[queue], FIRST_NOTIFIED)


def depths(session: Session) -> list[Queue]:
    """Return the state of every queue, in the order of ``QUEUES``."""
    pauses = paused(session)
    counted = {row.stage: row for row in session.execute(_waiting())}
    held = (
        sa.select(Unit.stage, sa.func.count().label("units")).where(Unit.state == UnitState.LEASED).group_by(Unit.stage)
    )
    at_work = {row.stage: row.units for row in session.execute(held)}
    found = []
    for name in QUEUES:
        stage = STAGE_OF[name]
        row = counted[stage]
        found.append(Queue(name, row.waiting, row.later, at_work.get(stage, 0), row.oldest, pauses.get(name)))
    return found


def _waiting() -> sa.Select[*tuple[Any, ...]]:
    """Select the ready units by stage, each count by an index and at most ``MAX_COUNTED``."""
    rows = []
    for stage in Stage:
        due = sa.select(Unit.run_after).where(*is_ready(stage), Unit.run_after <= sa.func.now())
        later = sa.select(Unit.run_after).where(*is_ready(stage), Unit.run_after > sa.func.now())
        first = due.order_by(Unit.run_after).limit(MAX_COUNTED).subquery()
        others = later.limit(MAX_COUNTED).subquery()
        rows.append(
            sa.select(
                sa.literal(stage, Unit.stage.type).label("stage"),
                sa.select(sa.func.count()).select_from(first).scalar_subquery().label("waiting"),
                sa.select(sa.func.min(first.c.run_after)).scalar_subquery().label("oldest"),
                sa.select(sa.func.count()).select_from(others).scalar_subquery().label("later"),
            )
        )
    every = sa.union_all(*rows).subquery()
    return sa.select(every.c.stage, every.c.waiting, every.c.oldest, every.c.later)
