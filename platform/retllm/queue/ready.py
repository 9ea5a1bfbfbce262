"""The ready units of a queue, found by indexes: the cost does not grow with the units that wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import Stage, UnitState
from retllm.db.tables import Job, Unit
from retllm.queue.routing import Notification, Routing, scorer_of, stage_of

# of more jobs with units that nobody has tried, only the oldest take turns
_JOBS_IN_TURN = 100
# more scorers than an installation ever had
_SCORERS = 1000


def is_ready(session: Session, routing: Routing, queue: str) -> Sequence[sa.ColumnElement[bool]]:
    """Return the conditions for ready units of a queue; if they are of one scorer, an index orders them by time."""
    scorers = _scorers(session, routing, queue)
    return Unit.stage == stage_of(queue), Unit.scorer.in_(scorers), Unit.state == UnitState.READY


def take_ready(
    session: Session, routing: Routing, queue: str, limit: int, *where: sa.ColumnElement[bool]
) -> list[Notification]:
    """Select claimable units of ``queue``, longest waiting first, and set ``announced_at``."""
    stage = stage_of(queue)
    claimable = (Unit.state == UnitState.READY, Unit.run_after <= sa.func.now(), *where)
    # ``limit`` units of each scorer in the order of the index; that of several scorers together has no index
    waiting = sa.union_all(
        *(
            sa.select(
                sa.select(Unit.id, Unit.run_after)
                .where(Unit.stage == stage, Unit.scorer == scorer, *claimable)
                .order_by(Unit.run_after, Unit.id)
                .limit(limit)
                .subquery()
            )
            for scorer in _scorers(session, routing, queue) or [""]
        )
    ).subquery()
    longest = sa.select(waiting.c.id).order_by(waiting.c.run_after, waiting.c.id).limit(limit)
    # a common table expression is evaluated once; a subquery may be evaluated for each row, and would then skip the
    # rows just updated and take others beyond the limit
    first = sa.select(Unit.id).where(Unit.id.in_(longest), *claimable).with_for_update(skip_locked=True).cte("first")
    taken = session.execute(
        sa.update(Unit)
        .where(Unit.id.in_(sa.select(first.c.id)))
        .values(announced_at=sa.func.now())
        .returning(Unit.run_after, Unit.id)
        .execution_options(synchronize_session=False)
    )
    return [Notification(unit_id, stage, scorer_of(queue)) for _, unit_id in sorted(taken)]


def in_turn(session: Session, routing: Routing, queue: str, limit: int) -> list[sa.Row[UUID, int]]:
    """Return at most ``limit`` units that nobody has tried yet, with their numbers of items, in the order of claiming.

    Jobs of which fewest units are in work come first.
    """
    stage, scorers = stage_of(queue), _scorers(session, routing, queue)
    untried = (Unit.stage == stage, Unit.state == UnitState.READY, Unit.attempt == 0)
    due = Unit.run_after <= sa.func.clock_timestamp()
    jobs: list[UUID] = []
    for scorer in scorers:
        jobs += session.scalars(_distinct(Unit.job_id, _JOBS_IN_TURN, *untried, Unit.scorer == scorer, due))
    if not jobs:
        return []
    waiting = (
        sa.select(Job.id)
        .where(Job.id.in_(sorted(jobs)[:_JOBS_IN_TURN]), ~Job.cancel_requested)
        .cte("waiting")
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )
    first = (
        sa.select(Unit.id, Unit.job_id, Unit.seq, Unit.payload)
        .where(Unit.job_id == waiting.c.id, *untried, Unit.scorer.in_(scorers), due)
        .order_by(Unit.seq)
        .limit(limit)
        .lateral("first")
    )
    in_work = (
        sa.select(Unit.job_id, sa.func.count().label("units"))
        .where(Unit.stage == stage, Unit.state == UnitState.LEASED)
        .group_by(Unit.job_id)
        .subquery()
    )
    turn = sa.func.row_number().over(partition_by=first.c.job_id, order_by=first.c.seq)
    query = (
        sa.select(first.c.id, sa.func.jsonb_array_length(first.c.payload["items"]))
        .select_from(waiting)
        .join(first, sa.true())
        .outerjoin(in_work, in_work.c.job_id == first.c.job_id)
        .order_by(turn + sa.func.coalesce(in_work.c.units, 0), first.c.job_id)
    )
    return list(session.execute(query.limit(limit)))


def _scorers(session: Session, routing: Routing, queue: str) -> list[str]:
    """Return the scorers of the ready units of a queue: the empty text for a stage without scorers."""
    stage, scorer = stage_of(queue), scorer_of(queue)
    if scorer is not None:
        return [scorer]
    if stage is not Stage.FINE:
        return [""]
    ready = _distinct(Unit.scorer, _SCORERS, Unit.stage == stage, Unit.state == UnitState.READY)
    return [found for found in session.scalars(ready) if found not in routing.extras]


def _distinct(column: Any, limit: int, *where: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Select the distinct values of a column in order, each by one look into an index.

    DISTINCT would read every row.
    """

    def least(*more: sa.ColumnElement[bool]) -> sa.ScalarSelect[Any]:
        return sa.select(column).where(*where, *more).order_by(column).limit(1).scalar_subquery()

    found = sa.select(least().label("value"), sa.literal(1).label("number")).cte("found", recursive=True)
    found = found.union_all(
        sa.select(least(column > found.c.value), found.c.number + 1).where(
            found.c.value.is_not(None), found.c.number < limit
        )
    )
    return sa.select(found.c.value).where(found.c.value.is_not(None))
