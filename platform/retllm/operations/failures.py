"""Dead units: what was given up after all attempts, and giving it new ones."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import JobKind, JobState, Stage, UnitState
from retllm.db.locks import lock_collections_of_jobs
from retllm.db.tables import Collection, Job, Search, Unit
from retllm.errors import InvalidInput
from retllm.identity.access import changeable_jobs, within_visible
from retllm.identity.actor import Actor
from retllm.operations.queues import STAGE_OF
from retllm.queue import lifecycle
from retllm.queue.notifications import Notification

BATCH = 200
"""Units that one transaction gives new attempts."""
MAX_COUNTED = 2_000
"""Dead units beyond this number are not counted."""

FOREIGN = "somebody else's, in a collection that you may not change"
GONE = "no longer dead"
STOPPING = "of a job that is being cancelled"


@dataclass(frozen=True)
class FailureFilters:
    """Which dead units; None and the empty text filter nothing."""

    queue: str | None = None
    collection_id: UUID | None = None
    text: str = ""

    def matching(self, actor: Actor) -> list[sa.ColumnElement[bool]]:
        """What is true of the units, and of their jobs, that match, of those that ``actor`` may see."""
        found = [Unit.state == UnitState.DEAD, within_visible(actor, Job.collection_id)]
        if self.queue is not None:
            found.append(Unit.stage == STAGE_OF[self.queue])
        if self.collection_id is not None:
            found.append(Job.collection_id == self.collection_id)
        if self.text:
            found.append(Unit.error.icontains(self.text, autoescape=True))
        return found


# sixteen figures of microseconds last until the year 2286
FAILURE_CURSOR = r"^[0-9]{1,16}_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
"""How a place in the list is written: microseconds since 1970, and the key of a unit."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class FailureCursor:
    """Where in the list a page begins: behind the unit that died then."""

    died_at: datetime
    unit_id: UUID

    def __str__(self) -> str:
        return f"{(self.died_at - _EPOCH) // _MICROSECOND}_{self.unit_id}"

    @classmethod
    def parse(cls, text: str) -> FailureCursor:
        """The place that was written so.

        Raises:
            InvalidInput: it is none.
        """
        if not re.fullmatch(FAILURE_CURSOR, text):
            raise InvalidInput("This is no place in the list; take `next` of the page before.", field="after")
        moment, _, key = text.partition("_")
        return cls(_EPOCH + int(moment) * _MICROSECOND, UUID(key))


@dataclass(frozen=True)
class DeadUnit:
    """A unit that was given up. ``may`` says whether this account may give it new attempts and read its traceback."""

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
    collection_id: UUID
    collection: str
    query: str | None
    may: bool

    @property
    def place(self) -> FailureCursor:
        """Where the list goes on behind it."""
        return FailureCursor(self.died_at, self.id)


def page(
    session: Session, actor: Actor, filters: FailureFilters, *, after: FailureCursor | None = None, limit: int = 50
) -> list[DeadUnit]:
    """Dead units that match, those that died last first."""
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
            Collection.name.label("collection"),
            Search.query_text.label("query"),
            may.label("may"),
        )
        .join(Job, Job.id == Unit.job_id)
        .join(Collection, Collection.id == Job.collection_id)
        .outerjoin(Search, Search.id == Job.id)
        .where(*filters.matching(actor))
        .order_by(Unit.finished_at.desc(), Unit.id.desc())
        .limit(limit)
    )
    if after is not None:
        query = query.where(sa.tuple_(Unit.finished_at, Unit.id) < sa.tuple_(after.died_at, after.unit_id))
    return [DeadUnit(**row._mapping) for row in session.execute(query)]


def count(session: Session, actor: Actor, filters: FailureFilters) -> tuple[int, int]:
    """How many match, and to how many of them this account may give new attempts; cut at ``MAX_COUNTED``."""
    # the job of each unit by its key: there are few dead units, and many jobs
    job = (
        sa.select(changeable_jobs(actor).label("may"))
        .where(Job.id == Unit.job_id, *filters.matching(actor))
        .correlate(Unit)
        .limit(1)
        .lateral()
    )
    dead = sa.select(job.c.may).select_from(Unit).join(job, sa.true()).where(Unit.state == UnitState.DEAD)
    some = dead.limit(MAX_COUNTED).subquery()
    row = session.execute(sa.select(sa.func.count(), sa.func.count().filter(some.c.may)).select_from(some)).one()
    return row[0], row[1]


def changeable(
    session: Session, actor: Actor, filters: FailureFilters, *, until: datetime, limit: int = BATCH
) -> list[UUID]:
    """Units that match, that died until then, and to which this account may give new attempts now."""
    stopping = sa.and_(Job.cancel_requested, Job.finished_at.is_(None))
    query = (
        sa.select(Unit.id)
        .join(Job, Job.id == Unit.job_id)
        .where(*filters.matching(actor), changeable_jobs(actor), sa.not_(stopping), Unit.finished_at <= until)
        .order_by(Unit.finished_at.desc(), Unit.id.desc())
        .limit(limit)
    )
    return list(session.scalars(query))


@dataclass
class Requeued:
    """What was given new attempts, why not the rest, and what the caller announces after the commit."""

    number: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    units: list[Notification] = field(default_factory=list)


def requeue(session: Session, actor: Actor, unit_ids: Sequence[UUID]) -> Requeued:
    """Give dead units new attempts; a job that is over goes back to work for them, as when it is tried again.

    Of a job that was cancelled everything that was not done comes back, else it would end as if it were whole.
    """
    done = Requeued()
    found = session.execute(
        sa.select(Unit.id, Unit.job_id)
        .join(Job, Job.id == Unit.job_id)
        .where(Unit.id.in_(unit_ids), Unit.state == UnitState.DEAD, within_visible(actor, Job.collection_id))
    ).all()
    job_ids = sorted({row.job_id for row in found})
    lock_collections_of_jobs(session, job_ids)
    for job_id in job_ids:
        _requeue_of(session, actor, job_id, [row.id for row in found if row.job_id == job_id], done)
    done.refused[GONE] += len(set(unit_ids)) - done.number - done.refused.total()
    done.refused = +done.refused
    return done


def _requeue_of(session: Session, actor: Actor, job_id: UUID, unit_ids: list[UUID], done: Requeued) -> None:
    job = lifecycle.lock_job(session, job_id)
    if job is None:
        return
    if session.scalar(sa.select(Job.id).where(Job.id == job_id, changeable_jobs(actor))) is None:
        done.refused[FOREIGN] += len(unit_ids)
        return
    if job.cancel_requested and job.finished_at is None:
        done.refused[STOPPING] += len(unit_ids)
        return
    # counted under the lock: somebody else may have been quicker
    dead = sa.select(Unit.id).where(Unit.id.in_(unit_ids), Unit.state == UnitState.DEAD)
    still = list(session.scalars(dead))
    if still:
        whole = job.state is JobState.CANCELLED
        done.units += lifecycle.reopen(session, job) if whole else lifecycle.reopen_units(session, job, still)
        done.number += len(still)
