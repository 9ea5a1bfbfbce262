"""Cancel, retry and delete jobs, one at a time or many in one transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import JobState
from retllm.db.jobs import Job
from retllm.db.locks import lock_collections_of_jobs
from retllm.db.searches import Search
from retllm.errors import Conflict, NotFound, Obsolete
from retllm.identity.access import changeable_jobs, job_for, require_job_rights, visible_jobs
from retllm.identity.actor import Actor
from retllm.queue import lifecycle
from retllm.queue.handlers import all_handlers, handler_of
from retllm.queue.routing import Notification
from retllm.queue.submission import Submitted

NOT_ALLOWED = "of another account, in a collection that you may not change"
TOO_LATE = "already deleted"
NO_HELP = "such that no retry can help"


class BulkAction(StrEnum):
    """An action on several jobs."""

    CANCEL = "cancel"  # stop the jobs
    RETRY = "retry"  # reopen their dead and cancelled units, or try again what was left undone
    DELETE = "delete"  # delete the jobs and their results


def allowed(action: BulkAction) -> sa.ColumnElement[bool]:
    """Return a condition that is true for jobs whose state allows ``action``."""
    if action is BulkAction.CANCEL:
        return sa.and_(Job.finished_at.is_(None), Job.cancel_requested.is_(False))
    if action is BulkAction.RETRY:
        left = [sa.and_(Job.kind == kind, handler.left()) for kind, handler in all_handlers().items()]
        failed = Job.state.in_([JobState.PARTIAL, JobState.FAILED, JobState.CANCELLED])
        return sa.or_(
            sa.and_(failed, ~lifecycle.no_retry_helps(Job.id)),
            sa.and_(Job.state == JobState.SUCCEEDED, sa.or_(*left)),
        )
    return Job.finished_at.is_not(None)


@dataclass
class JobChanges:
    """The result of an action on jobs, including what the caller has to do after the commit."""

    jobs: list[Job] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    """number of skipped jobs, by reason"""
    units: list[Notification] = field(default_factory=list)
    """units to notify workers of"""
    pictures: list[str] = field(default_factory=list)
    """keys of query pictures to delete from the storage"""


def _locked(session: Session, actor: Actor, job_id: UUID) -> Job:
    job_for(session, actor, job_id)
    job = lifecycle.lock_job(session, job_id)
    if job is None:
        raise NotFound("There is no such job.")
    require_job_rights(session, actor, job)
    return job


def cancel_job(session: Session, actor: Actor, job_id: UUID) -> Job:
    """Cancel a job: ready units are cancelled at once, leased units after their current batch.

    Cancelling twice is not an error.

    Raises:
        NotFound: the job does not exist.
        Forbidden: the job is of another account, in a collection that this account may not change.
        Conflict: the job has already ended.
    """
    job = _locked(session, actor, job_id)
    if job.state is not JobState.CANCELLED:
        _cancel(session, job)
    return job


def _cancel(session: Session, job: Job) -> None:
    if job.finished_at is not None:
        raise Conflict(f"The job has already ended ({job.state}); there is nothing to cancel.")
    job.cancel_requested = True
    lifecycle.close_if_cancelled(session, job)
    session.flush()


def retry_job(session: Session, actor: Actor, job_id: UUID) -> Submitted:
    """Reopen the dead and cancelled units of a job, or try again what it left undone; units that are done stay done.

    Raises:
        NotFound: the job does not exist.
        Forbidden: the job is of another account, in a collection that this account may not change.
        Conflict: the job is still running, or nothing in it failed, or (Obsolete) no retry can help.
    """
    job = _locked(session, actor, job_id)
    return Submitted(job, _retry(session, job), created=False)


def _retry(session: Session, job: Job) -> list[Notification]:
    if job.finished_at is None:
        raise Conflict("The job is still running; its failed units are retried automatically.")
    if job.state is JobState.SUCCEEDED:
        return handler_of(job.kind).again(session, job)
    if session.scalar(sa.select(lifecycle.no_retry_helps(job.id))):
        raise Obsolete(f"A retry can't help this job: {job.error or Obsolete.__doc__}")
    return lifecycle.reopen(session, job)


def delete_job(session: Session, actor: Actor, job_id: UUID) -> JobChanges:
    """Delete a job with its units, candidates and scores; embeddings, cached scores and marks stay.

    The caller deletes the ``pictures`` from the storage after the commit.

    Raises:
        NotFound: the job does not exist.
        Forbidden: the job is of another account, in a collection that this account may not change.
        Conflict: the job is still running.
    """
    job = _locked(session, actor, job_id)
    if job.finished_at is None:
        raise Conflict("The job is still running: cancel it first, and delete it after it has stopped.")
    changes = JobChanges()
    _delete(session, [job], changes)
    return changes


def apply_to_jobs(session: Session, actor: Actor, action: BulkAction, job_ids: Sequence[UUID]) -> JobChanges:
    """Apply ``action`` to those jobs that allow it, in this transaction, and count the others by reason."""
    changes = JobChanges()
    lock_collections_of_jobs(session, job_ids)
    locking = (
        sa.select(Job)
        .where(Job.id.in_(job_ids), visible_jobs(actor))
        .order_by(Job.id)
        .with_for_update(of=Job)
        .execution_options(populate_existing=True)
    )
    visible = session.scalars(locking).all()
    changes.refused[TOO_LATE] += len(set(job_ids)) - len(visible)
    query = sa.select(Job.id).where(Job.id.in_([job.id for job in visible]), changeable_jobs(actor))
    changeable = set(session.scalars(query))
    changes.refused[NOT_ALLOWED] += len(visible) - len(changeable)
    jobs = [job for job in visible if job.id in changeable]
    if action is BulkAction.DELETE:
        _delete(session, jobs, changes)
    else:
        for job in jobs:
            _apply(session, action, job, changes)
    changes.refused = +changes.refused
    return changes


def _apply(session: Session, action: BulkAction, job: Job, changes: JobChanges) -> None:
    if action is BulkAction.CANCEL and job.cancel_requested and job.finished_at is None:
        changes.refused["already being cancelled"] += 1
        return
    try:
        if action is BulkAction.CANCEL:
            _cancel(session, job)
        else:
            changes.units += _retry(session, job)
    except Obsolete:
        changes.refused[NO_HELP] += 1
        return
    except Conflict:
        ended = "already over" if action is BulkAction.CANCEL else "complete, with nothing to retry"
        changes.refused[ended if job.finished_at is not None else "still running"] += 1
        return
    changes.jobs.append(job)


def _delete(session: Session, jobs: Sequence[Job], changes: JobChanges) -> None:
    changes.jobs = [job for job in jobs if job.finished_at is not None]
    changes.refused["still running and must be cancelled first"] += len(jobs) - len(changes.jobs)
    ids = [job.id for job in changes.jobs]
    keys = sa.select(Search.query_picture_key).where(Search.id.in_(ids), Search.query_picture_key.is_not(None))
    changes.pictures = [key for key in session.scalars(keys) if key is not None]
    for job in changes.jobs:
        session.expunge(job)
    session.execute(sa.delete(Job).where(Job.id.in_(ids)).execution_options(synchronize_session=False))
