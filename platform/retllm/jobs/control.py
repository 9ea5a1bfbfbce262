"""Stopping a job and starting it again."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.orm import Session

from retllm.access import demand_job, job_for
from retllm.db.enums import JobState
from retllm.db.tables import Job, User
from retllm.errors import Conflict, NotFound
from retllm.jobs import life
from retllm.jobs.submit import Submitted


def _locked(session: Session, user: User, job_id: UUID) -> Job:
    demand_job(session, user, job_for(session, user, job_id))
    job = life.lock_job(session, job_id)
    if job is None:
        raise NotFound("There is no such job.")
    return job


def cancel_job(session: Session, user: User, job_id: UUID) -> Job:
    """Ask for the end of a job: what waits is dropped now, what a worker holds ends at its next batch.

    Cancelling twice is no error.

    Raises:
        NotFound: no such job.
        Forbidden: it is somebody else's, in a collection that this account may not change.
        Conflict: the job is over already.
    """
    job = _locked(session, user, job_id)
    if job.state is JobState.CANCELLED:
        return job
    if job.finished_at is not None:
        raise Conflict(f"The job is over ({job.state}); there is nothing to cancel.")
    job.cancel_requested = True
    life.close_if_cancelled(session, job)
    session.flush()
    return job


def retry_job(session: Session, user: User, job_id: UUID) -> Submitted:
    """Give the dead and cancelled units of a job new attempts; what is done is kept.

    Raises:
        NotFound: no such job.
        Forbidden: it is somebody else's, in a collection that this account may not change.
        Conflict: the job is still at work, or nothing of it failed.
    """
    job = _locked(session, user, job_id)
    if job.finished_at is None:
        raise Conflict("The job is still at work; its failed units are tried again by themselves.")
    if job.state is JobState.SUCCEEDED:
        raise Conflict("Nothing of this job failed; there is nothing to try again.")
    return Submitted(job, life.reopen(session, job), created=False)
