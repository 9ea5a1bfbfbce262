"""Transitions of jobs and units. Every function runs in the caller's transaction, under the lock of the job.

The lock order is collection, job, unit (:mod:`retllm.db.locks`). The lock of the job makes sure that exactly one of two
workers that end the last two units at the same time ends the job.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from retllm.db.enums import OPEN_UNITS, JobState, Stage, UnitState
from retllm.db.jobs import Job, Unit
from retllm.db.locks import lock_collections_of_jobs
from retllm.db.many import insert_many
from retllm.db.searches import Search
from retllm.db.tables import Item, new_id
from retllm.queue.handlers import handler_of
from retllm.queue.notifications import FIRST_NOTIFIED
from retllm.queue.routing import Notification, notifications

# units that one statement adds
_AT_ONCE = 1_000


def lock_job(session: Session, job_id: UUID) -> Job | None:
    """Lock its collections, then the job, and return the job; None if it or all of them were deleted."""
    if not lock_collections_of_jobs(session, [job_id]):
        return None
    query = sa.select(Job).where(Job.id == job_id).with_for_update().execution_options(populate_existing=True)
    return session.scalar(query)


def add_units(
    session: Session, job: Job, stage: Stage, payloads: Sequence[dict[str, Any]], first_seq: int = 0
) -> list[Notification]:
    """Add ready units to ``job``; return those that the caller notifies workers of after its commit."""
    query = sa.select(Search.scorer).where(Search.id == job.id)
    scorer = session.scalar(query) if stage is Stage.FINE else None
    same: dict[str, Any] = {"job_id": job.id, "user_id": job.user_id, "stage": stage, "scorer": scorer or ""}
    same |= {"state": UnitState.READY, "attempt": 0}
    rows = [{"id": new_id(), "seq": first_seq + n, "payload": payload, **same} for n, payload in enumerate(payloads)]
    first, later = rows[:FIRST_NOTIFIED], rows[FIRST_NOTIFIED:]
    # not one statement for each, as for objects with a value that the server computes
    if first:
        session.execute(sa.insert(Unit).values(announced_at=sa.func.now()), first)
    for start in range(0, len(later), _AT_ONCE):
        session.execute(insert_many(Unit, later[start : start + _AT_ONCE]))
    return [Notification(row["id"], stage, scorer) for row in first]


def mark_dead(session: Session, job: Job, unit: Unit, error: str, *, split: bool) -> list[Notification]:
    """End a unit that has no attempt left.

    A unit of several items is split into units of one item, so that a bad item fails alone. A unit of one item is
    dead, and its error begins with the item's name, unless the job has several collections: who sees it may not see
    the item. So is any unit if ``split`` is false because the items did not cause the failure; then the error names no
    item.
    """
    unit.token = None
    unit.lease_until = None
    unit.finished_at = sa.func.clock_timestamp()
    unit.error = error
    items: list[str] = unit.payload.get("items", [])
    if split and len(items) > 1:
        unit.state = UnitState.SPLIT
        return append_units(session, job, unit.stage, [{**unit.payload, "items": [item]} for item in items])
    unit.state = UnitState.DEAD
    if split and items and job.collection_id is not None:
        name = session.scalar(sa.select(Item.name).where(Item.id == UUID(items[0])))
        unit.error = f"{name}: {error}" if name else error
    handler_of(job.kind).on_dead(session, job, unit, error, split)
    session.flush()
    return finish_if_complete(session, job)


def set_apart(session: Session, job: Job, unit: Unit, items: Collection[str]) -> list[Notification]:
    """Move items out of a unit, each into a unit of its own."""
    unit.payload = {**unit.payload, "items": [item for item in unit.payload["items"] if item not in items]}
    return append_units(session, job, unit.stage, [{**unit.payload, "items": [item]} for item in items])


def set_aside(session: Session, job: Job, unit: Unit, items: Collection[str], run_after: Any) -> Unit:
    """Move items out of a unit into one new unit, which may be claimed from the time ``run_after`` on; return it."""
    unit.payload = {**unit.payload, "items": [item for item in unit.payload["items"] if item not in items]}
    (later,) = append_units(session, job, unit.stage, [{**unit.payload, "items": sorted(items)}])
    new = session.get_one(Unit, later.unit_id)
    new.run_after = run_after
    session.flush()
    return new


def append_units(session: Session, job: Job, stage: Stage, payloads: Sequence[dict[str, Any]]) -> list[Notification]:
    """Add ready units after those that the stage of ``job`` already has; otherwise like :func:`add_units`."""
    if not payloads:
        return []
    last = session.scalar(sa.select(sa.func.max(Unit.seq)).filter_by(job_id=job.id, stage=stage))
    return add_units(session, job, stage, payloads, first_seq=0 if last is None else last + 1)


def finish_if_complete(session: Session, job: Job) -> list[Notification]:
    """If no unit is open, add the next units, or end the job if there are none; otherwise add units ahead of those.

    Returns the new units to notify workers of.
    """
    if job.finished_at is not None:
        return []
    session.flush()
    handler = handler_of(job.kind)
    if session.scalar(open_unit(job.id)) is not None:
        ahead = None if job.cancel_requested else handler.ahead(session, job)
        return append_units(session, job, *ahead) if ahead else []
    following = None if job.cancel_requested else handler.next_units(session, job)
    if following is not None:
        return append_units(session, job, *following)
    state = _end_state(session, job)
    if state in (JobState.FAILED, JobState.PARTIAL):
        job.error = _first_error(session, job)
    if state in (JobState.SUCCEEDED, JobState.PARTIAL):
        handler.finish(session, job)
    if state is JobState.CANCELLED:
        handler.cancelled(session, job)
    # last, and not the time at which the transaction began: a job does not end before what is done in it
    job.state = state
    job.finished_at = sa.func.clock_timestamp()
    session.flush()
    return []


def open_unit(job_id: UUID, stage: Stage | None = None) -> sa.Select[UUID]:
    """Return the query for one open unit of a job, of any stage or of one; its cost does not grow with the job."""
    # written into the statement, since the planner can't tell from parameters that the partial index has them
    states: sa.BindParameter[Any] = sa.bindparam("open_states", OPEN_UNITS, expanding=True, literal_execute=True)
    query = sa.select(Unit.id).where(Unit.job_id == job_id, Unit.state.in_(states))
    if stage is not None:
        query = query.where(Unit.stage == stage)
    return query.order_by(Unit.seq.desc()).limit(1)


def _end_state(session: Session, job: Job) -> JobState:
    if job.cancel_requested:
        return JobState.CANCELLED
    counts: dict[tuple[Stage, UnitState], int] = {
        (stage, state): count
        for stage, state, count in session.execute(
            sa.select(Unit.stage, Unit.state, sa.func.count())
            .where(Unit.job_id == job.id)
            .group_by(Unit.stage, Unit.state)
        )
    }
    dead = sum(count for (_, state), count in counts.items() if state is UnitState.DEAD)
    if not dead:
        return JobState.SUCCEEDED
    # the job has a result if a unit of the last stage it reached is done
    last = max((stage for stage, _ in counts), key=list(Stage).index)
    return JobState.PARTIAL if counts.get((last, UnitState.DONE)) else JobState.FAILED


def _first_error(session: Session, job: Job) -> str | None:
    query = sa.select(Unit.error).where(Unit.job_id == job.id, Unit.state == UnitState.DEAD)
    return session.scalar(query.order_by(Unit.final.desc(), Unit.stage, Unit.seq).limit(1))


def no_retry_helps(job_id: Any) -> sa.Exists:
    """Return the condition that a unit of a job died of what no retry can help.

    Args:
        job_id: the job's key, or the column with it.
    """
    # an alias, since the statement may be on units itself
    unit = aliased(Unit)
    return sa.exists().where(unit.job_id == job_id, unit.final)


def close_if_cancelled(session: Session, job: Job) -> bool:
    """Cancel the ready units of a job whose cancellation was requested; return whether it was."""
    if not job.cancel_requested:
        return False
    session.execute(
        sa.update(Unit)
        .where(Unit.job_id == job.id, Unit.state == UnitState.READY)
        .values(state=UnitState.CANCELLED, finished_at=sa.func.clock_timestamp())
    )
    finish_if_complete(session, job)
    return True


def reopen(session: Session, job: Job) -> list[Notification]:
    """Make the dead and cancelled units of a job that is over ready again with all attempts; scores stay."""
    return _reopen(session, job, Unit.state.in_([UnitState.DEAD, UnitState.CANCELLED]))


def reopen_units(session: Session, job: Job, unit_ids: Collection[UUID]) -> list[Notification]:
    """Make these dead units of a job ready again with all attempts; a job that is over is queued again."""
    return _reopen(session, job, sa.and_(Unit.id.in_(unit_ids), Unit.state == UnitState.DEAD))


def _reopen(session: Session, job: Job, condition: sa.ColumnElement[bool]) -> list[Notification]:
    values = {"state": UnitState.READY, "attempt": 0, "run_after": sa.func.now(), "final": False}
    values |= dict.fromkeys(("waits_until", "finished_at", "announced_at"))
    # not one statement for each, since a job may have thousands
    again = sa.update(Unit).where(Unit.job_id == job.id, condition).values(values).returning(Unit)
    options = {"synchronize_session": False, "populate_existing": True}
    units = sorted(session.scalars(again, execution_options=options), key=lambda unit: (unit.stage, unit.seq))
    for unit in units[:FIRST_NOTIFIED]:
        unit.announced_at = sa.func.now()
    handler_of(job.kind).reopen(session, job, units)
    if job.finished_at is not None:
        _queue_again(job)
    session.flush()
    return notifications(units[:FIRST_NOTIFIED]) + finish_if_complete(session, job)


def _queue_again(job: Job) -> None:
    job.state = JobState.QUEUED
    job.cancel_requested = False
    job.error = None
    idle = sa.extract("epoch", sa.func.clock_timestamp() - Job.finished_at)
    job.idle_seconds = Job.idle_seconds + sa.func.greatest(0.0, idle)
    job.finished_at = None
