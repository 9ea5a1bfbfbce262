"""What the responses told clients, and where the database contradicts it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import TypeVar
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import FileStatus, JobState, UnitState
from retllm.db.jobs import Job, Unit
from retllm.db.searches import Score
from retllm.db.session import Sessions
from retllm.db.uploads import UploadFile
from retllm.queue.violations import Violation

_BATCH_SIZE = 1000
_GOOD = (FileStatus.ADDED, FileStatus.DUPLICATE, FileStatus.UPDATED, FileStatus.READ)

Key = TypeVar("Key")


@dataclass(frozen=True)
class Accepted:
    """A submission with response 202."""

    job_id: UUID
    key: str | None = None


@dataclass(frozen=True)
class Cancelled:
    """A confirmed cancellation; ``at`` is when the response arrived, by the clock of the database's machine.

    Only for jobs that were not retried since.
    """

    job_id: UUID
    at: datetime


@dataclass(frozen=True)
class Ending:
    """The end of a job as a client saw it; only for jobs that were not retried since."""

    job_id: UUID
    finished_at: datetime


@dataclass(frozen=True)
class SentFiles:
    """A closed upload: the names of its files, each sent until it was acknowledged, and the keys of their receipts.

    Names are unique within the upload. A file whose answer was lost has no receipt, but the server said that it has it.
    """

    job_id: UUID
    names: tuple[str, ...]
    receipts: Mapping[str, UUID]


@dataclass
class ClientLog:
    """What clients were told.

    ``deleted`` has the jobs of collections that they deleted, of which nothing else counts.
    """

    accepted: list[Accepted] = field(default_factory=list)
    cancelled: list[Cancelled] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)
    sent: list[SentFiles] = field(default_factory=list)
    deleted: set[UUID] = field(default_factory=set)


def client_violations(sessions: Sessions, log: ClientLog) -> list[Violation]:
    """Return the contradictions between the log and the database; none in a correct system."""
    deleted = set(log.deleted)
    with sessions() as session:
        return [
            *_of_keys(log.accepted),
            *_lost(session, [one for one in log.accepted if one.job_id not in deleted]),
            *_after_cancel(session, [one for one in log.cancelled if one.job_id not in deleted]),
            *_ended_twice(session, [one for one in log.endings if one.job_id not in deleted]),
            *_of_files(session, [one for one in log.sent if one.job_id not in deleted]),
        ]


def _of_keys(accepted: Sequence[Accepted]) -> Iterator[Violation]:
    jobs: defaultdict[str, set[UUID]] = defaultdict(set)
    for one in accepted:
        if one.key is not None:
            jobs[one.key].add(one.job_id)
    for key, ids in jobs.items():
        if len(ids) > 1:
            detail = ", ".join(sorted(map(str, ids)))
            yield Violation("one_job_a_key", key, "an idempotency key belongs to one job", detail)


def _lost(session: Session, accepted: Sequence[Accepted]) -> Iterator[Violation]:
    keys = {one.job_id: one.key for one in accepted}
    for batch in _batches(keys):
        query = sa.select(Job.id, Job.idempotency_key).where(Job.id.in_(batch))
        stored = dict(iter(session.execute(query)))
        for job_id in batch:
            if job_id not in stored:
                yield Violation("accepted_is_kept", str(job_id), "an accepted job exists", "it is missing")
            elif keys[job_id] is not None and stored[job_id] != keys[job_id]:
                detail = f"{stored[job_id]} instead of {keys[job_id]}"
                yield Violation("one_job_a_key", str(job_id), "an idempotency key belongs to one job", detail)


def _after_cancel(session: Session, cancelled: Sequence[Cancelled]) -> Iterator[Violation]:
    meaning = "after a confirmed cancellation nothing of the job takes effect"
    for one in cancelled:
        job = session.get(Job, one.job_id)
        if job is None:
            continue
        if not job.cancel_requested or (job.finished_at is not None and job.state is not JobState.CANCELLED):
            yield Violation("cancelled_stays_so", str(job.id), "a cancelled job ends as cancelled", str(job.state))
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
    for batch in _batches(seen):
        for job_id, finished_at in session.execute(sa.select(Job.id, Job.finished_at).where(Job.id.in_(batch))):
            if seen[job_id] != {finished_at}:
                detail = ", ".join(sorted(map(str, {*seen[job_id], finished_at})))
                yield Violation("ends_once", str(job_id), "a job ends once", detail)


def _of_files(session: Session, sent: Sequence[SentFiles]) -> Iterator[Violation]:
    for one in sent:
        job = session.get(Job, one.job_id)
        if job is None or job.cancel_requested:
            continue
        query = sa.select(UploadFile.name, UploadFile.id, UploadFile.status, UploadFile.error_code)
        rows: defaultdict[str, list[tuple[UUID, FileStatus]]] = defaultdict(list)
        for name, key, status, code in session.execute(query.filter_by(job_id=one.job_id)):
            # a unit that lost all its attempts leaves a file that can be tried again
            rows[name].append((key, FileStatus.READ if code == "failed" else status))
        for name in one.names:
            found = rows[name]
            receipt = one.receipts.get(name)
            if not found or (receipt is not None and receipt not in {key for key, _ in found}):
                yield Violation("acknowledged_is_kept", f"{one.job_id}", "an acknowledged file is kept", name)
            if len(found) > 1:
                detail = f"{name} has {len(found)}"
                yield Violation("one_outcome_a_file", f"{one.job_id}", "a file that was sent has one outcome", detail)
            if job.finished_at is not None and any(status not in _GOOD for _, status in found):
                detail = f"{name} is {', '.join(status for _, status in found)}"
                yield Violation("good_file_goes_in", f"{one.job_id}", "a file without fault is not rejected", detail)


def _batches(keys: Iterable[Key]) -> Iterator[list[Key]]:
    rest = iter(keys)
    while batch := list(islice(rest, _BATCH_SIZE)):
        yield batch
