"""Cancels the jobs of collections in the trash, so that workers do not look at their units again and again.

After the collection was restored, a retry goes on with them.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.deletion import WITH_DELETED, hold
from retllm.db.enums import OVER_JOBS, JobState
from retllm.db.jobs import Job
from retllm.db.session import Sessions, run_transaction, transaction
from retllm.db.tables import Collection, is_kept
from retllm.queue import lifecycle

AFTER = timedelta(minutes=10)
"""Of a collection that is restored before that, the jobs go on."""
_BATCH = 100
_OPEN_JOBS = [state for state in JobState if state not in OVER_JOBS]


def cancel_jobs(sessions: Sessions, *, after: timedelta = AFTER) -> int:
    """Cancel the jobs of collections that are in the trash for longer than ``after``; return their number."""
    long_ago = sa.select(Collection.id).where(is_kept(), Collection.deleted_at < sa.func.now() - after)
    going_on = (Job.collection_id.in_(long_ago), Job.state.in_(_OPEN_JOBS), ~Job.cancel_requested)
    first = sa.select(Job.id).where(*going_on).limit(_BATCH).execution_options(**WITH_DELETED)
    cancelled = 0
    while True:
        with transaction(sessions) as session:
            jobs = session.scalars(first).all()
        done = sum(run_transaction(sessions, partial(_cancel, job_id=job_id)) for job_id in jobs)
        cancelled += done
        if not done:
            return cancelled


def _cancel(session: Session, job_id: UUID) -> bool:
    """Cancel a job if its collection is in the trash; a unit that a worker holds is taken back after a restoration."""
    of_job = sa.select(Job.collection_id).where(Job.id == job_id).scalar_subquery()
    kept = sa.select(Collection.id).where(Collection.id == of_job, is_kept())
    locking = kept.with_for_update(read=True, key_share=True, skip_locked=True)
    collection_id = session.scalar(locking.execution_options(**WITH_DELETED))
    if collection_id is None:
        return False
    hold(session, [collection_id])
    job = session.scalar(sa.select(Job).where(Job.id == job_id).with_for_update())
    if job is None or job.finished_at is not None:
        return False
    job.cancel_requested = True
    lifecycle.close_if_cancelled(session, job)
    return True
