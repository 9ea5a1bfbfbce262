"""The ready units of a queue, found by indexes: the cost does not grow with the units that wait."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from retllm.db.enums import Stage, UnitState
from retllm.db.jobs import Job, Unit
from retllm.queue.routing import Notification, Routing, scorer_of, stage_of

Conditions = tuple[sa.ColumnElement[bool], ...]

# putting a query together takes the time of several answers, and a worker asks for each unit; there are as many as
# queues and scorers
_once = lru_cache(maxsize=256)
_MOST = sa.bindparam("most", type_=sa.Integer)

# what the order of claiming needs of a unit
_CLAIMED = (Unit.id, Unit.user_id, Unit.job_id, Unit.seq, Unit.payload)
# more accounts than have work at the same time
_USERS = 1000
_USERS_IN_TURN = 20
# that of the indexes of tried and of waiting units; the account is there for the planner, to whom another index would
# look as good
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
        users.update(session.scalars(_users_of(stage_of(queue), scorer, untried)))
    if len(users) <= 1:
        return list(users)
    in_work = dict(map(tuple, session.execute(_in_work(routing, queue, Unit.user_id))))
    place = {user: number for number, user in enumerate(served, 1)}
    return sorted(users, key=lambda user: (in_work.get(user, 0), place.get(user, 0), user))


@_once
def _users_of(stage: Stage, scorer: str, untried: bool) -> sa.Select[UUID]:
    """Select the accounts of units that can be claimed; their number is all that counts for the cost."""
    kinds = [sa.select(_distinct(Unit.user_id, _USERS, *_new(stage, [scorer])).subquery())]
    for later in (_waiting(stage, [scorer]), *([] if untried else [_tried(stage, [scorer])])):
        users = _distinct(Unit.user_id, _USERS, *later).subquery()
        first = sa.select(Unit.run_after).where(*later, Unit.user_id == users.c.value).order_by(*_OF_TRIED).limit(1)
        kinds.append(sa.select(users.c.value).where(first.scalar_subquery() <= sa.func.now()))
    return sa.select(sa.union(*kinds).subquery().c.value)


def tried_of(session: Session, routing: Routing, queue: str, user: UUID, limit: int) -> list[UUID]:
    """Return units of an account whose next attempt is due, the longest waiting first."""
    scorers = scorers_of_ready(session, routing, queue)
    return list(session.scalars(_tried_of(stage_of(queue), tuple(scorers)), {"user": user, "most": limit}))


@_once
def _tried_of(stage: Stage, scorers: tuple[str, ...]) -> sa.Select[UUID]:
    due = _due(_tried(stage, scorers))
    return due.join(Job, Job.id == Unit.job_id).where(~Job.cancel_requested)


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
    due: list[UUID] = []
    for user, scorer in product(users, scorers):
        most = max(1, _JOBS_IN_TURN // len(users))
        jobs += session.scalars(_jobs_of(stage, scorer), {"user": user, "most": most})
        due += session.scalars(_waited_of(stage, scorer), {"user": user, "most": limit})
    if not jobs and not due:
        return []
    asked = {"jobs": jobs, "due": due, "users": users, "order": users, "most": limit}
    return list(session.execute(_turns(routing, queue, tuple(scorers)), asked))


@_once
def _jobs_of(stage: Stage, scorer: str) -> sa.Select[UUID]:
    """Select the oldest jobs of an account that have new units."""
    return _distinct(Unit.job_id, _MOST, Unit.user_id == sa.bindparam("user"), *_new(stage, [scorer]))


@_once
def _waited_of(stage: Stage, scorer: str) -> sa.Select[UUID]:
    """Select units of an account that waited for a server long enough."""
    return _due(_waiting(stage, [scorer]))


def _due(later: Conditions) -> sa.Select[UUID]:
    """Select the units of an account that are due among those for later, the longest waiting first."""
    # with clock_timestamp(), which is not stable, the index would be read to its end
    is_due = Unit.user_id == sa.bindparam("user"), Unit.run_after <= sa.func.now()
    return sa.select(Unit.id).where(*later, *is_due).order_by(*_OF_TRIED).limit(_MOST)


@_once
def _turns(routing: Routing, queue: str, scorers: tuple[str, ...]) -> sa.Select[UUID, int]:
    """Select units of some jobs and some units that are due, in the order of claiming."""
    stage = stage_of(queue)
    first = sa.union_all(_new_of_jobs(_new(stage, scorers)), _still_due(stage)).subquery("first")
    of_job, of_user = (_in_work(routing, queue, column).subquery() for column in (Unit.job_id, Unit.user_id))
    place = sa.func.row_number().over(partition_by=first.c.job_id, order_by=first.c.seq)
    jobs_turn = (
        sa.select(first, (place + sa.func.coalesce(of_job.c.units, 0)).label("turn"))
        .outerjoin(of_job, of_job.c.job_id == first.c.job_id)
        .subquery()
    )
    place = sa.func.row_number().over(partition_by=jobs_turn.c.user_id, order_by=(jobs_turn.c.turn, jobs_turn.c.job_id))
    return (
        sa.select(jobs_turn.c.id, sa.func.jsonb_array_length(jobs_turn.c.payload["items"]))
        .outerjoin(of_user, of_user.c.user_id == jobs_turn.c.user_id)
        .order_by(
            place + sa.func.coalesce(of_user.c.units, 0),
            sa.func.array_position(sa.bindparam("order", type_=ARRAY(sa.Uuid)), jobs_turn.c.user_id),
            jobs_turn.c.turn,
            jobs_turn.c.job_id,
        )
        .limit(_MOST)
    )


def _new_of_jobs(new: Conditions) -> sa.Select[Any]:
    """Select of each job that is not cancelled the first units that are new."""
    goes_on = (
        sa.select(Job.id)
        .where(Job.id.in_(_several("jobs")), ~Job.cancel_requested)
        .cte("goes_on")
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )
    # the account is there for the index
    own = Unit.job_id == goes_on.c.id, Unit.user_id.in_(_several("users")), *new
    first = sa.select(*_CLAIMED).where(*own).order_by(Unit.seq).limit(_MOST).lateral()
    return sa.select(first).select_from(goes_on).join(first, sa.true())


def _still_due(stage: Stage) -> sa.Select[Any]:
    """Select those of the units that were due that are still ready, and whose jobs are not cancelled."""
    is_there = Unit.id.in_(_several("due")), Unit.stage == stage, Unit.state == UnitState.READY
    return sa.select(*_CLAIMED).join(Job, Job.id == Unit.job_id).where(*is_there, ~Job.cancel_requested)


def _several(name: str) -> sa.BindParameter[Any]:
    return sa.bindparam(name, expanding=True)


def _new(stage: Stage, scorers: Sequence[str]) -> Conditions:
    """Return the conditions for units of a stage that may be claimed for the first time, and did not wait before."""
    is_new = Unit.attempt == 0, Unit.waits_until.is_(None)
    return *_of(stage, scorers), *is_new, Unit.run_after <= sa.func.clock_timestamp()


def _waiting(stage: Stage, scorers: Sequence[str]) -> Conditions:
    """Return the conditions for units of a stage that nobody has tried, but for a server that was away."""
    return *_of(stage, scorers), Unit.attempt == 0, Unit.waits_until.is_not(None)


def _tried(stage: Stage, scorers: Sequence[str]) -> Conditions:
    """Return the conditions for units of a stage that wait for their next attempt."""
    return *_of(stage, scorers), Unit.attempt > 0


def _of(stage: Stage, scorers: Sequence[str]) -> Conditions:
    of_scorer = Unit.scorer == scorers[0] if len(scorers) == 1 else Unit.scorer.in_(scorers)
    return Unit.stage == stage, of_scorer, Unit.state == UnitState.READY


@_once
def _in_work(routing: Routing, queue: str, by: Any) -> sa.Select[Any]:
    """Select how many units of a queue are in work, by their job or account.

    A unit without items keeps no worker from other work: it waits for the database, for hours if that builds an index.
    """
    busy = sa.func.jsonb_array_length(Unit.payload["items"]).is_distinct_from(0)
    leased = *routing.within(queue), Unit.state == UnitState.LEASED, busy
    return sa.select(by, sa.func.count().label("units")).where(*leased).group_by(by)


def scorers_of_ready(session: Session, routing: Routing, queue: str) -> list[str]:
    """Return the scorers of the ready units of a queue: the empty text for a stage without scorers."""
    stage, scorer = stage_of(queue), scorer_of(queue)
    if scorer is not None:
        return [scorer]
    if stage is not Stage.FINE:
        return [""]
    return [found for found in session.scalars(_scorers_of(stage)) if found not in routing.extras]


@_once
def _scorers_of(stage: Stage) -> sa.Select[str]:
    return _distinct(Unit.scorer, _SCORERS, Unit.stage == stage, Unit.state == UnitState.READY)


def _distinct(column: Any, limit: Any, *where: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Select the distinct values of a column in order, each by one look into an index.

    DISTINCT would read every row.
    """

    def least(*more: sa.ColumnElement[bool]) -> sa.ScalarSelect[Any]:
        return sa.select(column).where(*where, *more).order_by(column).limit(1).scalar_subquery()

    found = sa.select(least().label("value"), sa.literal(1).label("number")).cte(recursive=True)
    found = found.union_all(
        sa.select(least(column > found.c.value), found.c.number + 1).where(
            found.c.value.is_not(None), found.c.number < limit
        )
    )
    return sa.select(found.c.value).where(found.c.value.is_not(None))
