"""The ready units of a queue, found by indexes: the cost does not grow with the units that wait."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from retllm.db.enums import Stage, UnitState
from retllm.db.tables import Job, Unit
from retllm.queue.routing import Notification, Routing, scorer_of, stage_of

# more accounts than have work at the same time
_USERS = 1000
_USERS_IN_TURN = 20
# that of the index of tried units; the account is there for the planner, to whom another index would look as good
_OF_TRIED = (Unit.user_id, Unit.run_after, Unit.id)
# of more jobs with units that nobody has tried, only the oldest take turns
_JOBS_IN_TURN = 100
# more scorers than an installation ever had
_SCORERS = 1000


def is_ready(session: Session, routing: Routing, queue: str) -> Sequence[sa.ColumnElement[bool]]:
    """Return the conditions for ready units of a queue; if they are of one scorer, an index orders them by time."""
    scorers = scorers_of_ready(session, routing, queue)
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
            for scorer in scorers_of_ready(session, routing, queue) or [""]
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


def users_in_turn(
    session: Session, routing: Routing, queue: str, served: Sequence[UUID], *, untried: bool = False
) -> list[UUID]:
    """Return the accounts that have claimable units in ``queue``, in the order of their turns.

    Those of which fewest units of the queue are in work come first, and among them those that were not served lately.

    Args:
        served: accounts in the order in which they were served last, the longest ago first.
        untried: only accounts with units that nobody has tried yet.
    """
    users: set[UUID] = set()
    for scorer in scorers_of_ready(session, routing, queue):
        users.update(session.scalars(_distinct(Unit.user_id, _USERS, *_untried(stage_of(queue), [scorer]))))
        if not untried:
            users.update(_users_of_tried(session, stage_of(queue), scorer))
    if len(users) <= 1:
        return list(users)
    in_work = dict(map(tuple, session.execute(_in_work(routing, queue, Unit.user_id))))
    place = {user: number for number, user in enumerate(served, 1)}
    return sorted(users, key=lambda user: (in_work.get(user, 0), place.get(user, 0), user))


def _users_of_tried(session: Session, stage: Stage, scorer: str) -> list[UUID]:
    """Return the accounts of units whose next attempt is due; their number is all that counts for the cost."""
    tried = _tried(stage, [scorer])
    users = _distinct(Unit.user_id, _USERS, *tried).subquery()
    first = sa.select(Unit.run_after).where(*tried, Unit.user_id == users.c.value).order_by(*_OF_TRIED).limit(1)
    return list(session.scalars(sa.select(users.c.value).where(first.scalar_subquery() <= sa.func.now())))


def tried_of(session: Session, routing: Routing, queue: str, user: UUID, limit: int) -> list[UUID]:
    """Return units of an account whose next attempt is due, the longest waiting first."""
    tried = _tried(stage_of(queue), scorers_of_ready(session, routing, queue))
    query = (
        sa.select(Unit.id)
        .join(Job, Job.id == Unit.job_id)
        # with clock_timestamp(), which is not stable, the index would be read to its end
        .where(*tried, Unit.user_id == user, Unit.run_after <= sa.func.now(), ~Job.cancel_requested)
        .order_by(*_OF_TRIED)
    )
    return list(session.scalars(query.limit(limit)))


def in_turn(
    session: Session, routing: Routing, queue: str, limit: int, users: Sequence[UUID]
) -> list[sa.Row[UUID, int]]:
    """Return at most ``limit`` units that nobody has tried yet, with their numbers of items, in the order of claiming.

    Accounts take turns, and so do the jobs of each: those of which fewest units are in work come first.

    Args:
        users: the accounts in the order of their turns, see :func:`users_in_turn`.
    """
    stage, scorers = stage_of(queue), scorers_of_ready(session, routing, queue)
    # not as many as are wanted: of some, all jobs may be cancelled
    users = users[: max(limit, _USERS_IN_TURN)]
    jobs: list[UUID] = []
    for user, scorer in product(users, scorers):
        own = Unit.user_id == user, *_untried(stage, [scorer])
        jobs += session.scalars(_distinct(Unit.job_id, max(1, _JOBS_IN_TURN // len(users)), *own))
    if not jobs:
        return []
    waiting = (
        sa.select(Job.id)
        .where(Job.id.in_(jobs), ~Job.cancel_requested)
        .cte("waiting")
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )
    first = (
        sa.select(Unit.id, Unit.user_id, Unit.job_id, Unit.seq, Unit.payload)
        .where(Unit.job_id == waiting.c.id, Unit.user_id.in_(users), *_untried(stage, scorers))
        .order_by(Unit.seq)
        .limit(limit)
        .lateral("first")
    )
    of_job, of_user = (_in_work(routing, queue, column).subquery() for column in (Unit.job_id, Unit.user_id))
    place = sa.func.row_number().over(partition_by=first.c.job_id, order_by=first.c.seq)
    jobs_turn = (
        sa.select(first, (place + sa.func.coalesce(of_job.c.units, 0)).label("turn"))
        .select_from(waiting)
        .join(first, sa.true())
        .outerjoin(of_job, of_job.c.job_id == first.c.job_id)
        .subquery()
    )
    place = sa.func.row_number().over(partition_by=jobs_turn.c.user_id, order_by=(jobs_turn.c.turn, jobs_turn.c.job_id))
    query = (
        sa.select(jobs_turn.c.id, sa.func.jsonb_array_length(jobs_turn.c.payload["items"]))
        .outerjoin(of_user, of_user.c.user_id == jobs_turn.c.user_id)
        .order_by(
            place + sa.func.coalesce(of_user.c.units, 0),
            sa.func.array_position(sa.literal(users, ARRAY(sa.Uuid)), jobs_turn.c.user_id),
            jobs_turn.c.turn,
            jobs_turn.c.job_id,
        )
    )
    return list(session.execute(query.limit(limit)))


def _untried(stage: Stage, scorers: Sequence[str]) -> tuple[sa.ColumnElement[bool], ...]:
    """Return the conditions for units of a stage that may be claimed for the first time."""
    return *_of(stage, scorers), Unit.attempt == 0, Unit.run_after <= sa.func.clock_timestamp()


def _tried(stage: Stage, scorers: Sequence[str]) -> tuple[sa.ColumnElement[bool], ...]:
    """Return the conditions for units of a stage that wait for their next attempt."""
    return *_of(stage, scorers), Unit.attempt > 0


def _of(stage: Stage, scorers: Sequence[str]) -> tuple[sa.ColumnElement[bool], ...]:
    of_scorer = Unit.scorer == scorers[0] if len(scorers) == 1 else Unit.scorer.in_(scorers)
    return Unit.stage == stage, of_scorer, Unit.state == UnitState.READY


def _in_work(routing: Routing, queue: str, by: Any) -> sa.Select[Any]:
    """Select how many units of a queue are in work, by their job or account."""
    leased = *routing.within(queue), Unit.state == UnitState.LEASED
    return sa.select(by, sa.func.count().label("units")).where(*leased).group_by(by)


def scorers_of_ready(session: Session, routing: Routing, queue: str) -> list[str]:
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
