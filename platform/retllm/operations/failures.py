"""Dead units: listing, counting and retrying them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import JobKind, JobState, Stage, UnitState
from retllm.db.jobs import Job, Unit
from retllm.db.locks import lock_collections_of_jobs
from retllm.db.searches import Search
from retllm.db.tables import Collection
from retllm.errors import InvalidInput
from retllm.history.control import NO_HELP
from retllm.history.job_views import name_of_collections
from retllm.history.named_items import NamedItem, name_items
from retllm.identity.access import changeable_jobs, visible_jobs
from retllm.identity.actor import Actor
from retllm.queue import lifecycle
from retllm.queue.routing import ONE_SCORER, Notification, Routing

BATCH = 200
"""Maximum number of units that one transaction retries."""
MAX_COUNTED = 2_000
"""Upper bound of the count of dead units."""

NOT_ALLOWED = "of another account, in a collection that you may not change"
TOO_LATE = "no longer dead"
STOPPING = "of a job that is being cancelled"


@dataclass(frozen=True)
class FailureFilters:
    """Filters for dead units; None and the empty text match everything. ``routing`` has the queue."""

    queue: str | None = None
    collection_id: UUID | None = None
    text: str = ""
    routing: Routing = ONE_SCORER

    def matching(self, actor: Actor) -> list[sa.ColumnElement[bool]]:
        """Return the conditions on units and jobs, including that ``actor`` may see the job."""
        conditions = [Unit.state == UnitState.DEAD, visible_jobs(actor)]
        if self.queue is not None:
            conditions.extend(self.routing.within(self.queue))
        if self.collection_id is not None:
            conditions.append(Job.collection_id == self.collection_id)
        if self.text:
            conditions.append(Unit.error.icontains(self.text, autoescape=True))
        return conditions


# 16 digits of microseconds last until the year 2286
FAILURE_CURSOR = r"^[0-9]{1,16}_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
"""Format of a cursor: microseconds since 1970 and the id of a unit."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class FailureCursor:
    """The position in the list after a unit that died at ``died_at``."""

    died_at: datetime
    unit_id: UUID

    def __str__(self) -> str:
        return f"{(self.died_at - _EPOCH) // _MICROSECOND}_{self.unit_id}"

    @classmethod
    def parse(cls, text: str) -> FailureCursor:
        """Parse a cursor.

        Raises:
            InvalidInput: ``text`` is not a cursor.
        """
        if not re.fullmatch(FAILURE_CURSOR, text):
            raise InvalidInput(
                "This is not a valid position in the list; use `next` of the previous page.", field="after"
            )
        moment, _, key = text.partition("_")
        return cls(_EPOCH + int(moment) * _MICROSECOND, UUID(key))


@dataclass(frozen=True)
class DeadUnit:
    """A dead unit. ``may`` says whether this account may retry it, and a retry can help.

    ``about`` has the names of its first items. Whoever may retry the units of a job reads their tracebacks.
    """

    id: UUID
    job_id: UUID
    kind: JobKind
    stage: Stage
    seq: int
    items: int
    attempt: int
    worker: str | None
    error: str | None
    traceback: str | None
    died_at: datetime
    collection_id: UUID | None
    """None for a search of several"""
    collection: str
    query: str | None
    may: bool
    about: list[NamedItem]

    @property
    def place(self) -> FailureCursor:
        """The cursor after this unit."""
        return FailureCursor(self.died_at, self.id)


def page(
    session: Session, actor: Actor, filters: FailureFilters, *, after: FailureCursor | None = None, limit: int = 50
) -> list[DeadUnit]:
    """Return dead units that match, latest first."""
    may = changeable_jobs(actor)
    query = (
        sa.select(
            Unit.id,
            Unit.job_id,
            Job.kind,
            Unit.stage,
            Unit.seq,
            sa.func.coalesce(sa.func.jsonb_array_length(Unit.payload["items"]), 0).label("items"),
            Unit.attempt,
            Unit.worker,
            Unit.error,
            sa.case((may, Unit.traceback)).label("traceback"),
            Unit.finished_at.label("died_at"),
            Job.collection_id,
            name_of_collections().label("collection"),
            Search.query_text.label("query"),
            _may_retry(actor).label("may"),
            Unit.payload,
        )
        .join(Job, Job.id == Unit.job_id)
        .outerjoin(Collection, Collection.id == Job.collection_id)
        .outerjoin(Search, Search.id == Job.id)
        .where(*filters.matching(actor))
        .order_by(Unit.finished_at.desc(), Unit.id.desc())
        .limit(limit)
    )
    if after is not None:
        query = query.where(sa.tuple_(Unit.finished_at, Unit.id) < sa.tuple_(after.died_at, after.unit_id))
    rows = session.execute(query).all()
    named = name_items(session, ((row.id, row.stage, row.payload) for row in rows))
    return [DeadUnit(**_without_payload(row), about=named[row.id]) for row in rows]


def _without_payload(row: sa.Row[Any]) -> dict[str, Any]:
    return {name: value for name, value in row._mapping.items() if name != "payload"}


def count(session: Session, actor: Actor, filters: FailureFilters) -> tuple[int, int]:
    """Count the units that match, and those of them that this account may retry; at most ``MAX_COUNTED``."""
    # looks up the job of each unit by key: there are few dead units and many jobs; the planner would join the
    # collections of plain conditions again for each of them
    matching = sa.case((sa.and_(*filters.matching(actor)), sa.true()), else_=sa.false())
    job = (
        sa.select(sa.case((_may_retry(actor), sa.true()), else_=sa.false()).label("may"))
        .where(Job.id == Unit.job_id, matching)
        .correlate(Unit)
        .limit(1)
        .lateral()
    )
    dead = sa.select(job.c.may).select_from(Unit).join(job, sa.true()).where(Unit.state == UnitState.DEAD)
    bounded = dead.limit(MAX_COUNTED).subquery()
    row = session.execute(sa.select(sa.func.count(), sa.func.count().filter(bounded.c.may)).select_from(bounded)).one()
    return row[0], row[1]


def _may_retry(actor: Actor) -> sa.ColumnElement[bool]:
    """Return the condition that an account may retry the units of a job, and that a retry can help."""
    return sa.and_(changeable_jobs(actor), ~lifecycle.no_retry_helps(Job.id))


def changeable(
    session: Session, actor: Actor, filters: FailureFilters, *, until: datetime, limit: int = BATCH
) -> list[UUID]:
    """Return units that match, died not after ``until``, and may be retried by this account now."""
    stopping = sa.and_(Job.cancel_requested, Job.finished_at.is_(None))
    query = (
        sa.select(Unit.id)
        .join(Job, Job.id == Unit.job_id)
        .where(*filters.matching(actor), _may_retry(actor), sa.not_(stopping), Unit.finished_at <= until)
        .order_by(Unit.finished_at.desc(), Unit.id.desc())
        .limit(limit)
    )
    return list(session.scalars(query))


@dataclass
class Requeued:
    """The number of retried units, the reasons for the others, and the units to notify workers of after the commit."""

    number: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    units: list[Notification] = field(default_factory=list)


def requeue(session: Session, actor: Actor, unit_ids: Sequence[UUID]) -> Requeued:
    """Retry dead units; a job that is over is queued again.

    For a cancelled job this reopens the cancelled units too; otherwise it would end as succeeded although they are
    missing.
    """
    result = Requeued()
    found = session.execute(
        sa.select(Unit.id, Unit.job_id)
        .join(Job, Job.id == Unit.job_id)
        .where(Unit.id.in_(unit_ids), Unit.state == UnitState.DEAD, visible_jobs(actor))
    ).all()
    job_ids = sorted({row.job_id for row in found})
    lock_collections_of_jobs(session, job_ids)
    for job_id in job_ids:
        _requeue_of(session, actor, job_id, [row.id for row in found if row.job_id == job_id], result)
    result.refused[TOO_LATE] += len(set(unit_ids)) - result.number - result.refused.total()
    result.refused = +result.refused
    return result


def _requeue_of(session: Session, actor: Actor, job_id: UUID, unit_ids: list[UUID], result: Requeued) -> None:
    job = lifecycle.lock_job(session, job_id)
    if job is None:
        return
    if session.scalar(sa.select(Job.id).where(Job.id == job_id, changeable_jobs(actor))) is None:
        result.refused[NOT_ALLOWED] += len(unit_ids)
        return
    if session.scalar(sa.select(lifecycle.no_retry_helps(job_id))):
        result.refused[NO_HELP] += len(unit_ids)
        return
    if job.cancel_requested and job.finished_at is None:
        result.refused[STOPPING] += len(unit_ids)
        return
    # checked again under the lock: somebody else may have retried them meanwhile
    dead = sa.select(Unit.id).where(Unit.id.in_(unit_ids), Unit.state == UnitState.DEAD)
    still = list(session.scalars(dead))
    if still:
        cancelled = job.state is JobState.CANCELLED
        result.units += lifecycle.reopen(session, job) if cancelled else lifecycle.reopen_units(session, job, still)
        result.number += len(still)
