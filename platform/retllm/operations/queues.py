"""Queues: their depths, and pausing them. A pause is a row in PostgreSQL that every claim checks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from retllm.db.enums import UnitState
from retllm.db.jobs import Unit
from retllm.db.operations import PausedQueue
from retllm.errors import NotFound
from retllm.identity.actor import Actor
from retllm.queue.notifications import FIRST_NOTIFIED
from retllm.queue.pauses import Pause, paused
from retllm.queue.ready import is_ready, take_ready
from retllm.queue.routing import Notification, Routing, is_of_scorer, scorer_of

_MEANING = {
    "query": "coarse stage of searches: embeds the query and finds the nearest items",
    "media": "uploads: unpacks archives, decodes pictures, reads captions",
    "embed": "index jobs and uploads: embeds items",
    "score": "fine stage of searches: scores candidates",
}
_LOOKED_AT = 20
MAX_COUNTED = 10_000
"""Upper bound of the counts of ready units."""


@dataclass(frozen=True)
class Queue:
    """The state of a queue in the database.

    ``waiting`` units may be claimed now, ``later`` ones wait for their retry; each count is at most ``MAX_COUNTED``.
    ``at_work`` units are leased. ``oldest`` is the time since which the longest waiting unit may be claimed.
    ``awaited`` says which server units of a scorer wait for, and why.
    """

    name: str
    waiting: int
    later: int
    at_work: int
    oldest: datetime | None
    pause: Pause | None
    awaited: str | None = None

    @property
    def meaning(self) -> str:
        """What its workers do."""
        scorer = scorer_of(self.name)
        return _MEANING[self.name] if scorer is None else f"fine stage of searches with the scorer {scorer}"


def require_queue(routing: Routing, name: str) -> str:
    """Return ``name`` if there is such a queue.

    Raises:
        NotFound: there is none.
    """
    if name not in routing.queues:
        raise NotFound(f"There is no queue of that name. The queues are {', '.join(routing.queues)}.")
    return name


def pause(session: Session, routing: Routing, actor: Actor, queue: str, reason: str = "") -> bool:
    """Stop claims from ``queue``; workers finish the units that they hold. Return false if it was already paused.

    Raises:
        NotFound: there is no such queue.
    """
    row = {"queue": require_queue(routing, queue), "user_id": actor.id, "reason": reason}
    inserted = session.execute(
        insert(PausedQueue).values(row).on_conflict_do_nothing().returning(PausedQueue.queue)
    ).scalar_one_or_none()
    return inserted is not None


def resume(session: Session, routing: Routing, queue: str) -> tuple[bool, list[Notification]]:
    """Allow claims from ``queue`` again.

    Returns whether it was paused, and the units to notify workers of after the commit.

    Raises:
        NotFound: there is no such queue.
    """
    deleted = session.execute(
        sa.delete(PausedQueue).where(PausedQueue.queue == require_queue(routing, queue)).returning(PausedQueue.queue)
    ).scalar_one_or_none()
    if deleted is None:
        return False, []
    return True, take_ready(session, routing, queue, FIRST_NOTIFIED)


def depths(session: Session, routing: Routing) -> list[Queue]:
    """Return the state of every queue, in the order of ``routing``.

    It takes several queries: only in a :func:`retllm.db.session.snapshot` is each unit counted once.
    """
    pauses = paused(session)
    counted = {row.queue: row for row in session.execute(_waiting(session, routing))}
    held = sa.select(Unit.stage, Unit.scorer).where(Unit.state == UnitState.LEASED)
    at_work = Counter(routing.queue_of(stage, scorer) for stage, scorer in session.execute(held))
    return [
        Queue(
            name, row.waiting, row.later, at_work[name], row.oldest, pauses.get(name), _awaited(session, routing, name)
        )
        for name, row in ((name, counted[name]) for name in routing.queues)
    ]


def _awaited(session: Session, routing: Routing, queue: str) -> str | None:
    """Return why units of the scorer of a queue wait for its server; None if the first ones do not."""
    if not is_of_scorer(queue):
        return None
    # a unit is leased while a worker looks for the server again
    some = [
        sa.select(Unit.waits_until, Unit.error)
        .where(*routing.within(queue), *state, Unit.error.is_not(None))
        .limit(_LOOKED_AT)
        for state in (
            (Unit.state == UnitState.READY, Unit.run_after > sa.func.now()),
            (Unit.state == UnitState.LEASED,),
        )
    ]
    unit = sa.union_all(*(sa.select(one.subquery()) for one in some)).subquery()
    return session.scalar(sa.select(unit.c.error).where(unit.c.waits_until.is_not(None)).limit(1))


def _waiting(session: Session, routing: Routing) -> sa.Select[*tuple[Any, ...]]:
    """Select the ready units by queue, each count by an index and at most ``MAX_COUNTED``."""
    rows = []
    for name in routing.queues:
        ready = is_ready(session, routing, name)
        due = sa.select(Unit.run_after).where(*ready, Unit.run_after <= sa.func.now())
        later = sa.select(Unit.run_after).where(*ready, Unit.run_after > sa.func.now())
        first = due.order_by(Unit.run_after).limit(MAX_COUNTED).subquery()
        others = later.limit(MAX_COUNTED).subquery()
        rows.append(
            sa.select(
                sa.literal(name).label("queue"),
                sa.select(sa.func.count()).select_from(first).scalar_subquery().label("waiting"),
                sa.select(sa.func.min(first.c.run_after)).scalar_subquery().label("oldest"),
                sa.select(sa.func.count()).select_from(others).scalar_subquery().label("later"),
            )
        )
    every = sa.union_all(*rows).subquery()
    return sa.select(every.c.queue, every.c.waiting, every.c.oldest, every.c.later)
