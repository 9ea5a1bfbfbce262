"""Stopping jobs, starting them again, deleting them; one by one, or many within one transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import JobState
from retllm.db.locks import lock_collections_of_jobs
from retllm.db.tables import Job, Search
from retllm.errors import Conflict, NotFound
from retllm.identity.access import changeable_jobs, job_for, require_job_rights, within_visible
from retllm.identity.actor import Actor
from retllm.queue import lifecycle
from retllm.queue.notifications import Notification
from retllm.queue.submission import Submitted

FOREIGN = "somebody else's, in a collection that you may not change"
GONE = "no longer there"


class BulkAction(StrEnum):
    """What can be done to several jobs at once."""

    CANCEL = "cancel"  # ask for their end
    RETRY = "retry"  # give what failed of them new attempts
    DELETE = "delete"  # forget them and their results


def allowed(deed: BulkAction) -> sa.ColumnElement[bool]:
    """True for the jobs whose state allows it."""
    if deed is BulkAction.CANCEL:
        return sa.and_(Job.finished_at.is_(None), Job.cancel_requested.is_(False))
    if deed is BulkAction.RETRY:
        return Job.state.in_([JobState.PARTIAL, JobState.FAILED, JobState.CANCELLED])
    return Job.finished_at.is_not(None)


@dataclass
class JobChanges:
    """What was done to several jobs: to which, why not to others, and what the caller does after the commit."""

    jobs: list[Job] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    """how many were left, by the reason"""
    units: list[Notification] = field(default_factory=list)
    """to be announced"""
    pictures: list[str] = field(default_factory=list)
    """keys of the storage that nothing names any more"""


def _locked(session: Session, actor: Actor, job_id: UUID) -> Job:
    job_for(session, actor, job_id)
    job = lifecycle.lock_job(session, job_id)
    if job is None:
        raise NotFound("There is no such job.")
    require_job_rights(session, actor, job)
    return job


def cancel_job(session: Session, actor: Actor, job_id: UUID) -> Job:
    """Ask for the end of a job: what waits is dropped now, what a worker holds ends at its next batch.

    Cancelling twice is no error.

    Raises:
        NotFound: no such job.
        Forbidden: it is somebody else's, in a collection that this account may not change.
        Conflict: the job is over already.
    """
    job = _locked(session, actor, job_id)
    if job.state is not JobState.CANCELLED:
        _cancel(session, job)
    return job


def _cancel(session: Session, job: Job) -> None:
    if job.finished_at is not None:
        raise Conflict(f"The job is over ({job.state}); there is nothing to cancel.")
    job.cancel_requested = True
    lifecycle.close_if_cancelled(session, job)
    session.flush()


def retry_job(session: Session, actor: Actor, job_id: UUID) -> Submitted:
    """Give the dead and cancelled units of a job new attempts; what is done is kept.

    Raises:
        NotFound: no such job.
        Forbidden: it is somebody else's, in a collection that this account may not change.
        Conflict: the job is still at work, or nothing of it failed.
    """
    job = _locked(session, actor, job_id)
    return Submitted(job, _retry(session, job), created=False)


def _retry(session: Session, job: Job) -> list[Notification]:
    if job.finished_at is None:
        raise Conflict("The job is still at work; its failed units are tried again by themselves.")
    if job.state is JobState.SUCCEEDED:
        raise Conflict("Nothing of this job failed; there is nothing to try again.")
    return lifecycle.reopen(session, job)


def delete_job(session: Session, actor: Actor, job_id: UUID) -> JobChanges:
    """Forget one job with its units, candidates and scores; embeddings, cached scores and marks of reviews stay.

    The caller deletes the ``pictures`` from the storage after the commit.

    Raises:
        NotFound: no such job.
        Forbidden: it is somebody else's, in a collection that this account may not change.
        Conflict: the job is still at work.
    """
    job = _locked(session, actor, job_id)
    if job.finished_at is None:
        raise Conflict("The job is still at work: cancel it first, and delete it when it has stopped.")
    done = JobChanges()
    _delete(session, [job], done)
    return done


def apply_to_jobs(session: Session, actor: Actor, deed: BulkAction, job_ids: Sequence[UUID]) -> JobChanges:
    """Do it to those of the jobs to which it can be done, in this transaction; the others are counted by the reason."""
    done = JobChanges()
    lock_collections_of_jobs(session, job_ids)
    locking = (
        sa.select(Job)
        .where(Job.id.in_(job_ids), within_visible(actor, Job.collection_id))
        .order_by(Job.id)
        .with_for_update(of=Job)
        .execution_options(populate_existing=True)
    )
    seen = session.scalars(locking).all()
    done.refused[GONE] += len(set(job_ids)) - len(seen)
    changeable = sa.select(Job.id).where(Job.id.in_([job.id for job in seen]), changeable_jobs(actor))
    mine = set(session.scalars(changeable))
    done.refused[FOREIGN] += len(seen) - len(mine)
    wanted = [job for job in seen if job.id in mine]
    if deed is BulkAction.DELETE:
        _delete(session, wanted, done)
    else:
        for job in wanted:
            _do(session, deed, job, done)
    done.refused = +done.refused
    return done


def _do(session: Session, deed: BulkAction, job: Job, done: JobChanges) -> None:
    if deed is BulkAction.CANCEL and job.cancel_requested and job.finished_at is None:
        done.refused["being cancelled already"] += 1
        return
    try:
        if deed is BulkAction.CANCEL:
            _cancel(session, job)
        else:
            done.units += _retry(session, job)
    except Conflict:
        over = "over already" if deed is BulkAction.CANCEL else "done whole"
        done.refused[over if job.finished_at is not None else "still at work"] += 1
        return
    done.jobs.append(job)


def _delete(session: Session, jobs: Sequence[Job], done: JobChanges) -> None:
    done.jobs = [job for job in jobs if job.finished_at is not None]
    done.refused["still at work, and to be cancelled first"] += len(jobs) - len(done.jobs)
    ids = [job.id for job in done.jobs]
    keys = sa.select(Search.query_picture_key).where(Search.id.in_(ids), Search.query_picture_key.is_not(None))
    done.pictures = [key for key in session.scalars(keys) if key is not None]
    for job in done.jobs:
        session.expunge(job)
    session.execute(sa.delete(Job).where(Job.id.in_(ids)).execution_options(synchronize_session=False))
