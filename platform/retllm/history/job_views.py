"""Views of jobs: state, progress, stages and errors."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from retllm.db.counts import UnitCount
from retllm.db.enums import OPEN_UNITS, FileStatus, JobKind, JobState, Stage, UnitState
from retllm.db.jobs import Attempt, Job, Unit
from retllm.db.searches import Candidate, Search
from retllm.db.tables import Collection, User
from retllm.errors import NotFound
from retllm.history.file_counts import NO_FILES, FileCounts, count_not_kept, file_counts
from retllm.history.index_builds import index_builds
from retllm.history.retries import retries
from retllm.history.unit_errors import UnitError, errors_of
from retllm.queue import lifecycle


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


class JobView(BaseModel):
    """A job."""

    id: UUID
    kind: JobKind
    state: JobState
    collection_id: UUID | None = Field(description="null for a search of several collections")
    collection_name: str = Field(description="for a search of several collections their number, as in `3 collections`")
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
    final: bool = Field(default=False, description="whether no retry can help, as the error says; begin the job again")
    progress: float = Field(description="share of the work that is done, 0 to 1")
    index_build: float | None = Field(
        default=None,
        description="share of the vector index of a large collection that the database has built, 0 to 1; null while "
        "it builds none for this job",
    )
    stages: list[StageProgress]
    errors: list[UnitError]
    files: FileCounts | None = Field(description="outcomes and missing files of an upload; null for other jobs")
    run_id: UUID | None = Field(default=None, description="the evaluation run that a search is a part of")
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
    running = [job for job in jobs if job.finished_at is None]
    pools = _pools(session, [job.id for job in running if job.kind is JobKind.SEARCH])
    errors = errors_of(session, [job.id for job in jobs if job.state is not JobState.SUCCEEDED])
    builds = index_builds(session, [job.id for job in running if job.kind is not JobKind.SEARCH])
    uploads = [job.id for job in jobs if job.kind is JobKind.UPLOAD]
    files = dict.fromkeys(uploads, NO_FILES) | (file_counts(session, uploads) if uploads else {})
    retried = retries(session, [job.id for job in running if job.kind is JobKind.UPLOAD])
    names: dict[UUID, tuple[str, str, bool]] = {
        job_id: (collection, user, final)
        for job_id, collection, user, final in session.execute(_named(), {"job_ids": ids})
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
            final=names[job.id][2],
            progress=(
                _unfinished(*retried[job.id])
                if job.id in retried
                else _progress(
                    job, stages[job.id], pools.get(job.id, 0), files.get(job.id, NO_FILES), builds.get(job.id)
                )
            ),
            index_build=builds.get(job.id),
            stages=stages[job.id],
            errors=errors[job.id],
            files=files.get(job.id),
            run_id=job.run_id,
            params=job.params,
        )
        for job in jobs
        if job.id in names
    ]


# the queries of a view are built once, since that takes longer than to execute them


def _these(job_id: Any) -> sa.ColumnElement[bool]:
    return job_id.in_(sa.bindparam("job_ids", expanding=True))  # type: ignore[no-any-return]


def name_of_collections() -> sa.ColumnElement[str]:
    """Return the name of the collection of a job, with the search joined; of a search of several their number."""
    plural = sa.case((Search.collections == 1, ""), else_="s")
    number = sa.func.concat(Search.collections, " collection", plural, type_=sa.Text)
    return sa.func.coalesce(Collection.name, number)


@cache
def _named() -> sa.Select[UUID, str, str, bool]:
    return (
        sa.select(Job.id, name_of_collections(), User.name, lifecycle.no_retry_helps(Job.id))
        .outerjoin(Collection, Collection.id == Job.collection_id)
        .join(User, User.id == Job.user_id)
        # the second is redundant, but makes the planner use an index instead of a sequential scan
        .outerjoin(Search, sa.and_(Search.id == Job.id, _these(Search.id)))
        .where(_these(Job.id))
    )


def _pools(session: Session, job_ids: Sequence[UUID]) -> dict[UUID, int]:
    """Return the number of candidates of each search."""
    if not job_ids:
        return {}
    query = sa.select(Candidate.search_id, sa.func.count()).where(Candidate.search_id.in_(job_ids))
    return {row[0]: row[1] for row in session.execute(query.group_by(Candidate.search_id))}


def _progress(job: Job, stages: Sequence[StageProgress], pool: int, files: FileCounts, build: float | None) -> float:
    """Return the completed share of the work. A failed job shows the share it reached, not 1.

    A search in waves is measured by its whole pool while it runs, so that a new wave does not decrease the progress. If
    no further wave is needed, the progress jumps to its end. Files that are still to come count as work of an upload.
    A job that only builds an index is as far as this is.
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
    by_media = dict.fromkeys((JobKind.DUPLICATES, JobKind.MAP, JobKind.OCR), Stage.MEDIA)
    last = {JobKind.INDEX: Stage.EMBED, **by_media}.get(job.kind, Stage.FINE)
    for stage in stages:
        if stage.stage is not last or not stage.items_total:
            continue
        if job.finished_at is not None:
            return round(stage.items_done / stage.items_total, 4)
        # all candidates can have a score while the entropy of ties is still missing
        return _unfinished(stage.items_done, max(stage.items_total, pool))
    return min(_MAX_UNFINISHED, round(build or 0.0, 4))


def _unfinished(done: int, total: int) -> float:
    """Return the share of the work that is done while it goes on."""
    return min(_MAX_UNFINISHED, round(done / max(1, total), 4))


@cache
def _counted_units() -> sa.Select[UUID, Stage, UnitState, int, int, datetime | None, datetime | None]:
    one = UnitCount
    units = sa.cast(sa.func.sum(one.units), sa.BigInteger)
    # units of a further pass have items that are already counted
    items = sa.func.coalesce(sa.func.sum(one.items).filter(~one.again), 0)
    return (
        sa.select(
            one.job_id,
            one.stage,
            one.state,
            units,
            items,
            sa.func.min(one.started_at),
            sa.func.max(one.finished_at),
        )
        .where(_these(one.job_id))
        .group_by(one.job_id, one.stage, one.state)
        .having(units != 0)
    )


def _stages(session: Session, job_ids: Sequence[UUID]) -> dict[UUID, list[StageProgress]]:
    found: dict[UUID, dict[Stage, list[Any]]] = defaultdict(lambda: defaultdict(list))
    sizes: Counter[UUID] = Counter()
    for row in session.execute(_counted_units(), {"job_ids": job_ids}):
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
    rows = session.execute(_times(), {"job_ids": job_ids})
    return {(job_id, stage): seconds for job_id, stage, seconds in rows}


@cache
def _times() -> sa.Select[UUID, Stage, float]:
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
        .where(_these(Unit.job_id))
        .subquery()
    )
    # what an attempt adds to those that began before it; greatest() ignores null
    added = sa.extract("epoch", ended.c.ended_at - sa.func.greatest(ended.c.started_at, ended.c.before))
    query = sa.select(ended.c.job_id, ended.c.stage, sa.cast(sa.func.sum(sa.func.greatest(added, 0)), sa.Float))
    return query.group_by(ended.c.job_id, ended.c.stage)


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
