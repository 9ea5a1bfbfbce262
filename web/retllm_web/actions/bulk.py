"""The same deed done to many jobs: in bounded transactions, with what could not be done told by its reason."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy.orm import Session

from retllm.db.session import run_transaction, transaction
from retllm.db.tables import Job
from retllm.history import control, listing
from retllm.history.control import BulkAction, JobChanges
from retllm.history.listing import JobFilters
from retllm.identity.actor import Actor
from retllm.identity.audit import Action
from retllm_web.actions.auditing import note
from retllm_web.actions.submissions import forget, note_job
from retllm_web.http.services import services

BATCH = 200
"""Jobs of one transaction."""
MAX = 1000
"""Jobs of one request; whoever wants more asks again."""

_NOTED = {BulkAction.CANCEL: Action.JOB_CANCELLED, BulkAction.RETRY: Action.JOB_RETRIED}


@dataclass
class BulkResult:
    """What came of it; ``after`` is the key to go on with if jobs are left."""

    done: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    after: UUID | None = None


def delete(actor: Actor, job_id: UUID) -> None:
    """Delete one job with its results, and its query picture.

    Raises:
        NotFound: no such job.
        Forbidden: it is somebody else's, in a collection that this account may not change.
        Conflict: it is still at work.
    """
    _finished(actor, BulkAction.DELETE, lambda session: control.delete_job(session, actor, job_id))


def do_to(actor: Actor, deed: BulkAction, job_ids: Sequence[UUID]) -> BulkResult:
    """Do it to these jobs, so far as it can be done; at most ``MAX`` of them."""
    tally = BulkResult()
    for start in range(0, min(len(job_ids), MAX), BATCH):
        _add(tally, actor, deed, job_ids[start : start + BATCH])
    return tally


def apply_to_all(
    actor: Actor, deed: BulkAction, filters: JobFilters, *, upto: UUID, after: UUID | None = None
) -> BulkResult:
    """Do it to the jobs that match, so far as it can be done, newest first; at most ``MAX`` of them.

    Jobs with keys above ``upto`` came after the question whether to do it, and are left alone.
    """
    tally = BulkResult(after=after)
    for _ in range(MAX // BATCH):
        with transaction(services().sessions) as session:
            conditions = [*filters.matching(actor), Job.id <= upto]
            ids = listing.keys(session, actor, conditions, control.allowed(deed), after=tally.after, limit=BATCH)
        tally.after = ids[-1] if len(ids) == BATCH else None
        if ids:
            _add(tally, actor, deed, ids)
        if tally.after is None:
            break
    return tally


def _add(tally: BulkResult, actor: Actor, deed: BulkAction, job_ids: Sequence[UUID]) -> None:
    done = _finished(actor, deed, lambda session: control.apply_to_jobs(session, actor, deed, job_ids))
    tally.done += len(done.jobs)
    tally.refused += done.refused


def _finished(actor: Actor, deed: BulkAction, do: Callable[[Session], JobChanges]) -> JobChanges:
    """Do it in one transaction with its entries in the audit log, then what waits for the commit."""

    def noted(session: Session) -> JobChanges:
        done = do(session)
        _note(session, actor, deed, done.jobs)
        return done

    done = run_transaction(services().sessions, noted)
    services().notifier.notify(done.units)
    for key in done.pictures:
        forget(key)
    return done


def _note(session: Session, actor: Actor, deed: BulkAction, jobs: Sequence[Job]) -> None:
    if deed is not BulkAction.DELETE:
        for job in jobs:
            note_job(session, actor, _NOTED[deed], job)
        return
    gone: dict[UUID, list[str]] = defaultdict(list)
    for job in jobs:
        gone[job.collection_id].append(str(job.id))
    for collection_id, ids in gone.items():
        target = "1 job" if len(ids) == 1 else f"{len(ids)} jobs"
        note(
            session,
            Action.JOBS_DELETED,
            target=target,
            collection_id=collection_id,
            user=actor,
            count=len(ids),
            jobs=ids,
        )
