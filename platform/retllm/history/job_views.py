"""Views of jobs: state, progress, stages and errors."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from retllm.db.counts import UnitCount
from retllm.db.enums import OPEN_UNITS, FileStatus, JobKind, JobState, Stage, UnitState
from retllm.db.searches import Candidate
from retllm.db.tables import Attempt, Collection, Job, Unit, User
from retllm.db.vectors import build_progress
from retllm.errors import NotFound
from retllm.history.file_counts import NO_FILES, FileCounts, count_not_kept, file_counts
from retllm.history.retries import retries
from retllm.history.same_errors import MAX_ERRORS
from retllm.queue import attempts


class StageProgress(BaseModel):
    """The progress of one stage of a job.

    The ``items_*`` fields count items (embed; with several embedders, an item once per missing vector) or candidates
    (fine; for a search in waves, those of the waves so far).
    """

    stage: Stage
    units: dict[UnitState, int]
    items_total: int
    items_done: int
    items_failed: int
    seconds: float | None = Field(
        description="for how long at least one worker was at it; of a job of many units, from the first claim to the "
        "last end; null before the first attempt ends"
    )
    started_at: datetime | None = Field(description="when the first unit was claimed")
    finished_at: datetime | None = Field(description="when the last unit ended; null while a unit is open")


class UnitError(BaseModel):
    """The error of a unit whose last attempt failed or that is dead."""

    stage: Stage
    seq: int
    state: UnitState
    attempt: int
    error: str
    run_after: datetime | None
    waits: bool = Field(default=False, description="whether it waits for a server; then no attempt has failed of this")


class JobView(BaseModel):
    """A job."""

    id: UUID
    kind: JobKind
    state: JobState
    collection_id: UUID
    collection_name: str
    user_name: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    seconds: float | None = Field(
        description="how long it took from its creation to its end, without the time between an end and a retry; null "
        "before its end"
    )
    cancel_requested: bool
    error: str | None
    progress: float = Field(description="share of the work that is done, 0 to 1")
    index_build: float | None = Field(
        default=None,
        description="share of the vector index of a large collection that the database has built, 0 to 1; null while "
        "it builds none for this job",
    )
    stages: list[StageProgress]
    errors: list[UnitError]
    files: FileCounts | None = Field(description="outcomes and missing files of an upload; null for other jobs")
    params: dict[str, Any]


class Again(BaseModel):
    """What a retry does again."""

    units: int = Field(description="units that were dead or cancelled, and new ones for files")
    files: int = Field(description="rejected files and entries of an upload that wait again")
    read_again: int = Field(
        description="sheets and documents that are read again for their rows or pages that were left out"
    )
    not_kept: int = Field(default=0, description="rejected files of an upload whose bytes the server does not keep")


class RetriedJobView(JobView):
    """A job that was retried."""

    again: Again


MAX_TIMED = 2_000
"""Maximum number of units of a job whose attempts are added up."""

# maximum progress of a job that still runs
_MAX_UNFINISHED = 0.99


def job_view(session: Session, job: Job) -> JobView:
    """Return a job with its progress, its stages and the errors of its units.

    Raises:
        NotFound: it was deleted meanwhile.
    """
    views = job_views(session, [job])
    if not views:
        raise NotFound("There is no such job.")
    return views[0]


def retried_view(session: Session, job: Job, before: JobView) -> RetriedJobView:
    """Return a job with what a retry in this transaction does again; ``before`` is the job as it was.

    Raises:
        NotFound: it was deleted meanwhile.
    """
    now = job_view(session, job)
    read_again = _files(before, FileStatus.READ) - _files(now, FileStatus.READ)
    again = Again(
        units=_open_units(now) - _open_units(before),
        files=_files(now, FileStatus.WAITING) - _files(before, FileStatus.WAITING) - read_again,
        read_again=read_again,
        not_kept=count_not_kept(session, job.id),
    )
    return RetriedJobView(**dict(now), again=again)


def _open_units(job: JobView) -> int:
    return sum(stage.units.get(state, 0) for stage in job.stages for state in OPEN_UNITS)


def _files(job: JobView, status: FileStatus) -> int:
    return job.files.counts.get(status, 0) if job.files else 0


def job_views(session: Session, jobs: Sequence[Job]) -> list[JobView]:
    """Return several jobs, without those deleted meanwhile, with a fixed number of queries."""
    ids = [job.id for job in jobs]
    stages = _stages(session, ids)
    pools = _pools(session, [job.id for job in jobs if job.kind is JobKind.SEARCH and job.finished_at is None])
    errors = _errors(session, [job.id for job in jobs if job.state is not JobState.SUCCEEDED])
    builds = _index_builds(session, [job.id for job in jobs if job.finished_at is None])
    uploads = [job.id for job in jobs if job.kind is JobKind.UPLOAD]
    files = dict.fromkeys(uploads, NO_FILES) | (file_counts(session, uploads) if uploads else {})
    retried = retries(session, [job.id for job in jobs if job.kind is JobKind.UPLOAD and job.finished_at is None])
    names: dict[UUID, tuple[str, str]] = {
        job_id: (collection, user)
        for job_id, collection, user in session.execute(
            sa.select(Job.id, Collection.name, User.name)
            .join(Collection, Collection.id == Job.collection_id)
            .join(User, User.id == Job.user_id)
            .where(Job.id.in_(ids))
        )
    }
    return [
        JobView(
            id=job.id,
            kind=job.kind,
            state=job.state,
            collection_id=job.collection_id,
            collection_name=names[job.id][0],
            user_name=names[job.id][1],
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
            seconds=job.seconds,
            cancel_requested=job.cancel_requested,
            error=job.error,
            progress=(
                _unfinished(*retried[job.id])
                if job.id in retried
                else _progress(job, stages[job.id], pools.get(job.id, 0), files.get(job.id, NO_FILES))
            ),
            index_build=builds.get(job.id),
            stages=stages[job.id],
            errors=errors[job.id],
            files=files.get(job.id),
            params=job.params,
        )
        for job in jobs
        if job.id in names
    ]


def _index_builds(session: Session, job_ids: Sequence[UUID]) -> dict[UUID, float]:
    """Return how much of an index the database has built for each job; an index has the key of its unit."""
    if not job_ids:
        return {}
    building = sa.select(Unit.id, Unit.job_id).where(
        Unit.job_id.in_(job_ids), Unit.state == UnitState.LEASED, Unit.payload.has_key("index")
    )
    jobs: dict[UUID, UUID] = dict(iter(session.execute(building)))
    return {jobs[unit_id]: share for unit_id, share in build_progress(session, list(jobs)).items()}


def _pools(session: Session, job_ids: Sequence[UUID]) -> dict[UUID, int]:
    """Return the number of candidates of each search."""
    if not job_ids:
        return {}
    query = sa.select(Candidate.search_id, sa.func.count()).where(Candidate.search_id.in_(job_ids))
    return {row[0]: row[1] for row in session.execute(query.group_by(Candidate.search_id))}


def _progress(job: Job, stages: Sequence[StageProgress], pool: int, files: FileCounts) -> float:
    """Return the completed share of the work. A failed job shows the share it reached, not 1.

    A search in waves is measured by its whole pool while it runs, so that a new wave does not decrease the progress. If
    no further wave is needed, the progress jumps to its end. Files that are still to come count as work of an upload.
    """
    if job.state is JobState.SUCCEEDED:
        return 1.0
    if job.kind is JobKind.UPLOAD:
        done = sum(stage.items_done for stage in stages)
        # each goes through every stage
        missing = files.to_come
        if job.state is JobState.CANCELLED:
            missing += files.counts.get(FileStatus.NOT_SENT, 0)
        total = sum(stage.items_total for stage in stages) + missing * len(stages)
        return _unfinished(done, total) if job.finished_at is None else round(done / max(1, total), 4)
    last = Stage.EMBED if job.kind is JobKind.INDEX else Stage.FINE
    for stage in stages:
        if stage.stage is not last or not stage.items_total:
            continue
        if job.finished_at is not None:
            return round(stage.items_done / stage.items_total, 4)
        # all candidates can have a score while the entropy of ties is still missing
        return _unfinished(stage.items_done, max(stage.items_total, pool))
    return 0.0


def _unfinished(done: int, total: int) -> float:
    """Return the share of the work that is done while it goes on."""
    return min(_MAX_UNFINISHED, round(done / max(1, total), 4))


def _stages(session: Session, job_ids: Sequence[UUID]) -> dict[UUID, list[StageProgress]]:
    one = UnitCount
    units = sa.cast(sa.func.sum(one.units), sa.BigInteger)
    # units of a further pass have items that are already counted
    items = sa.func.coalesce(sa.func.sum(one.items).filter(~one.again), 0)
    query = (
        sa.select(
            one.job_id,
            one.stage,
            one.state,
            units,
            items,
            sa.func.min(one.started_at),
            sa.func.max(one.finished_at),
        )
        .where(one.job_id.in_(job_ids))
        .group_by(one.job_id, one.stage, one.state)
        .having(units != 0)
    )
    found: dict[UUID, dict[Stage, list[Any]]] = defaultdict(lambda: defaultdict(list))
    sizes: Counter[UUID] = Counter()
    for row in session.execute(query):
        found[row[0]][row[1]].append(row[2:])
        sizes[row[0]] += row[3]
    worked = _worked(session, [job_id for job_id in job_ids if sizes[job_id] <= MAX_TIMED])
    order = list(Stage)
    result: dict[UUID, list[StageProgress]] = defaultdict(list)
    for job_id, stages in found.items():
        result[job_id] = [
            _stage(stage, stages[stage], worked.get((job_id, stage)), timed=sizes[job_id] <= MAX_TIMED)
            for stage in sorted(stages, key=order.index)
        ]
    return result


def _worked(session: Session, job_ids: Sequence[UUID]) -> dict[tuple[UUID, Stage], float]:
    """Return for how many seconds at least one worker was at each stage, by its attempts that have ended."""
    # looks them up unit by unit: for a join the planner may read the attempts of all jobs
    its_own = sa.select(Attempt.token, Attempt.started_at, Attempt.ended_at).where(Attempt.ended_at.is_not(None))
    attempt = its_own.where(Attempt.unit_id == Unit.id).correlate(Unit).offset(0).lateral()
    before = (
        sa.func.max(attempt.c.ended_at)
        .over(partition_by=(Unit.job_id, Unit.stage), order_by=(attempt.c.started_at, attempt.c.token), rows=(None, -1))
        .label("before")
    )
    ended = (
        sa.select(Unit.job_id, Unit.stage, attempt.c.started_at, attempt.c.ended_at, before)
        .join(attempt, sa.true())
        .where(Unit.job_id.in_(job_ids))
        .subquery()
    )
    # what an attempt adds to those that began before it; greatest() ignores null
    added = sa.extract("epoch", ended.c.ended_at - sa.func.greatest(ended.c.started_at, ended.c.before))
    query = sa.select(ended.c.job_id, ended.c.stage, sa.cast(sa.func.sum(sa.func.greatest(added, 0)), sa.Float))
    rows = session.execute(query.group_by(ended.c.job_id, ended.c.stage))
    return {(job_id, stage): seconds for job_id, stage, seconds in rows}


def _stage(stage: Stage, rows: Sequence[Any], seconds: float | None, *, timed: bool) -> StageProgress:
    units: dict[UnitState, int] = {state: count for state, count, *_ in rows}
    items: dict[UnitState, int] = {state: int(total) for state, _, total, *_ in rows}
    started: list[datetime] = [row[3] for row in rows if row[3]]
    finished: list[datetime] = [row[4] for row in rows if row[4]]
    if not timed and started and finished:
        seconds = (max(finished) - min(started)).total_seconds()
    return StageProgress(
        stage=stage,
        units=units,
        # the units that replaced a split unit count its items
        items_total=sum(count for state, count in items.items() if state is not UnitState.SPLIT),
        items_done=items.get(UnitState.DONE, 0),
        items_failed=items.get(UnitState.DEAD, 0),
        seconds=seconds,
        started_at=min(started, default=None),
        finished_at=None if any(units.get(state) for state in OPEN_UNITS) else max(finished, default=None),
    )


def _errors(session: Session, job_ids: Sequence[UUID]) -> dict[UUID, list[UnitError]]:
    result: dict[UUID, list[UnitError]] = defaultdict(list)
    if not job_ids:
        return result
    failing = sa.orm.aliased(
        Unit,
        sa.select(Unit)
        .where(
            Unit.job_id == Job.id,
            Unit.error.is_not(None),
            Unit.state.in_([UnitState.READY, UnitState.LEASED, UnitState.DEAD]),
        )
        .correlate(Job)
        .order_by(Unit.stage, Unit.seq)
        .limit(MAX_ERRORS)
        .lateral(),
    )
    query = (
        sa.select(failing, attempts.last_waited(failing.id))
        .select_from(Job)
        .join(failing, sa.true())
        .where(Job.id.in_(job_ids))
        .order_by(failing.stage, failing.seq)
    )
    for unit, waits in session.execute(query):
        result[unit.job_id].append(
            UnitError(
                stage=unit.stage,
                seq=unit.seq,
                state=unit.state,
                attempt=unit.attempt,
                error=unit.error or "",
                run_after=unit.run_after if unit.state is UnitState.READY else None,
                waits=bool(waits),
            )
        )
    return result
