"""Values for the ETag of a job, computed by queries that read no results."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import array
from sqlalchemy.orm import Session

from retllm.db.counts import FileCount, UnitCount
from retllm.db.enums import FileStatus, JobState, UnitState
from retllm.db.jobs import Job
from retllm.db.operations import PausedQueue
from retllm.db.reviews import Judgment
from retllm.db.searches import Candidate, Score, Search, SearchCollection
from retllm.db.uploads import Upload
from retllm.errors import NotFound
from retllm.history.index_builds import builds_index, index_builds
from retllm.identity.access import visible_jobs
from retllm.identity.actor import Actor

# the ETag of a queued job also changes every _WAIT_SECONDS, up to _MAX_WAITS times, to update hints on the wait
_WAIT_SECONDS, _MAX_WAITS = 20, 6

EtagValues = tuple[Any, ...]


def job_etag(session: Session, actor: Actor, job_id: UUID) -> EtagValues:
    """Return values that change with the job, its units, files, candidates and scores, its index, marks and pauses.

    Raises:
        NotFound: the job does not exist or this account may not see it.
    """
    parts = (_units(), _files(), _scores(), _candidates(), _marks(), _pauses())
    waited = sa.func.floor(sa.extract("epoch", sa.func.now() - Job.created_at) / _WAIT_SECONDS)
    query = sa.select(
        Job.state,
        Job.cancel_requested,
        Job.finished_at,
        sa.case((Job.state == JobState.QUEUED, sa.func.least(waited, _MAX_WAITS))),
        Search.coarse_at,
        Search.final_at,
        Upload.closed_at,
        sa.and_(Job.finished_at.is_(None), builds_index(Job.id)).label("building"),
        *(column for part in parts for column in part.c),
    )
    joined = query.select_from(Job).outerjoin(Search, Search.id == Job.id).outerjoin(Upload, Upload.id == Job.id)
    for part in parts:
        joined = joined.join(part, sa.true())
    row = session.execute(joined.where(Job.id == job_id, visible_jobs(actor))).first()
    if row is None:
        raise NotFound("There is no such job.")
    build = index_builds(session, [job_id]).get(job_id) if row.building else None
    # pages show whole percents
    return (*row, None if build is None else round(100 * build))


def _units() -> sa.FromClause:
    # merged counts keep the number of changes of the units that are still counted
    return (
        sa.select(
            sa.func.sum(UnitCount.units).label("units"),
            sa.func.sum(UnitCount.attempts).label("attempts"),
            *(
                sa.func.sum(column).filter(UnitCount.state == state).label(f"{column.key}_{state}")
                for state in UnitState
                for column in (UnitCount.units, UnitCount.changes)
            ),
        )
        .where(UnitCount.job_id == Job.id)
        .lateral()
    )


def _files() -> sa.FromClause:
    # a file's outcome changes with its status
    return (
        sa.select(
            *(
                sa.func.sum(FileCount.count).filter(FileCount.status == status).label(f"files_{status}")
                for status in FileStatus
            )
        )
        .where(FileCount.job_id == Job.id)
        .lateral()
    )


def _scores() -> sa.FromClause:
    return (
        sa.select(sa.func.count().label("scores"), sa.func.count(Score.entropy).label("entropies"))
        .where(Score.search_id == Job.id)
        .lateral()
    )


def _candidates() -> sa.FromClause:
    return (
        sa.select(
            sa.func.count().label("candidates"),
            sa.func.count(Candidate.error).label("candidate_errors"),
            sa.func.count(Candidate.final_rank).label("ranked"),
        )
        .where(Candidate.search_id == Job.id)
        .lateral()
    )


def _marks() -> sa.FromClause:
    return (
        sa.select(sa.func.count().label("marks"), sa.func.max(Judgment.updated_at).label("marked_at"))
        .where(Judgment.collection_id == sa.any_(_collections()), Judgment.question == Search.question)
        .lateral()
    )


def _collections() -> sa.ColumnElement[Any]:
    several = sa.select(SearchCollection.collection_id).where(SearchCollection.search_id == Job.id).correlate(Job)
    # an array, so that the index of the marks serves both
    return sa.case(
        (Job.collection_id.is_not(None), array([Job.collection_id])), else_=sa.func.array(several.scalar_subquery())
    )


def _pauses() -> sa.FromClause:
    return sa.select(
        sa.func.count(PausedQueue.queue).label("pauses"), sa.func.max(PausedQueue.created_at).label("paused_at")
    ).lateral()
