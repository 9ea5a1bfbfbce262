"""What clients were told, and where the database says otherwise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import TypeVar
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import JobState, UnitState
from retllm.db.session import Sessions
from retllm.db.tables import Job, Score, Unit
from retllm.queue.violations import Violation

_JOBS_AT_ONCE = 1000

Key = TypeVar("Key")


@dataclass(frozen=True)
class Accepted:
    """A submission that was answered with 202."""

    job_id: UUID
    key: str | None = None


@dataclass(frozen=True)
class Cancelled:
    """A cancellation that was answered; ``at`` is when the answer was there, by the clock of the database's machine.

    Only for jobs that nobody has started again since.
    """

    job_id: UUID
    at: datetime


@dataclass(frozen=True)
class Ending:
    """The end of a job as somebody saw it; for jobs that nobody has started again."""

    job_id: UUID
    finished_at: datetime


@dataclass
class ClientLog:
    """What clients were told; jobs that were deleted on demand are left out of it."""

    accepted: list[Accepted] = field(default_factory=list)
    cancelled: list[Cancelled] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)


def broken_promises(sessions: Sessions, log: ClientLog) -> list[Violation]:
    """Everything that clients were told and that is not so; empty in a sound system."""
    with sessions() as session:
        return [
            *_of_keys(log.accepted),
            *_lost(session, log.accepted),
            *_after_cancel(session, log.cancelled),
            *_ended_twice(session, log.endings),
        ]


def _of_keys(accepted: Sequence[Accepted]) -> Iterator[Violation]:
    jobs: defaultdict[str, set[UUID]] = defaultdict(set)
    for one in accepted:
        if one.key is not None:
            jobs[one.key].add(one.job_id)
    for key, ids in jobs.items():
        if len(ids) > 1:
            said = ", ".join(sorted(map(str, ids)))
            yield Violation("one_job_a_key", key, "an idempotency key stands for one job", said)


def _lost(session: Session, accepted: Sequence[Accepted]) -> Iterator[Violation]:
    keys = {one.job_id: one.key for one in accepted}
    for some in _batches(keys):
        query = sa.select(Job.id, Job.idempotency_key).where(Job.id.in_(some))
        there = dict(iter(session.execute(query)))
        for job_id in some:
            if job_id not in there:
                yield Violation("accepted_is_kept", str(job_id), "an accepted job exists", "it is gone")
            elif keys[job_id] is not None and there[job_id] != keys[job_id]:
                detail = f"{there[job_id]} in place of {keys[job_id]}"
                yield Violation("one_job_a_key", str(job_id), "an idempotency key stands for one job", detail)


def _after_cancel(session: Session, cancelled: Sequence[Cancelled]) -> Iterator[Violation]:
    meaning = "after a cancellation was answered, nothing more of the job takes effect"
    for one in cancelled:
        job = session.get(Job, one.job_id)
        if job is None:
            continue
        if not job.cancel_requested or (job.finished_at is not None and job.state is not JobState.CANCELLED):
            yield Violation("cancelled_stays_so", str(job.id), "a cancelled job ends as one", str(job.state))
        late = session.scalar(
            sa.select(sa.func.count()).where(
                Unit.job_id == job.id, Unit.state == UnitState.DONE, Unit.finished_at > one.at
            )
        )
        scored = session.scalar(sa.select(sa.func.count()).where(Score.search_id == job.id, Score.created_at > one.at))
        if late or scored:
            yield Violation("nothing_after_cancel", str(job.id), meaning, f"{late} units, {scored} scores")


def _ended_twice(session: Session, endings: Sequence[Ending]) -> Iterator[Violation]:
    seen: defaultdict[UUID, set[datetime]] = defaultdict(set)
    for one in endings:
        seen[one.job_id].add(one.finished_at)
    for some in _batches(seen):
        for job_id, finished_at in session.execute(sa.select(Job.id, Job.finished_at).where(Job.id.in_(some))):
            if seen[job_id] != {finished_at}:
                said = ", ".join(sorted(map(str, {*seen[job_id], finished_at})))
                yield Violation("ends_once", str(job_id), "a job ends once", said)


def _batches(keys: Iterable[Key]) -> Iterator[list[Key]]:
    rest = iter(keys)
    while some := list(islice(rest, _JOBS_AT_ONCE)):
        yield some
