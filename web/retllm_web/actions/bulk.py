"""One action on many jobs: in bounded transactions, with the skipped jobs counted by reason."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy.orm import Session

from retllm.db.jobs import Job
from retllm.db.session import run_transaction, transaction
from retllm.history import control, listing
from retllm.history.control import BulkAction, JobChanges
from retllm.history.listing import JobFilters
from retllm.identity.actor import Actor
from retllm.identity.audit import Action
from retllm_web.actions.auditing import record
from retllm_web.actions.submissions import delete_picture, record_job
from retllm_web.http.services import services

BATCH = 200
"""Maximum of jobs in one transaction."""
MAX = 1000
"""Maximum of jobs in one request; the caller repeats the request for more."""

_AUDIT_ACTIONS = {BulkAction.CANCEL: Action.JOB_CANCELLED, BulkAction.RETRY: Action.JOB_RETRIED}


@dataclass
class BulkResult:
    """Counts of changed and skipped jobs; ``after`` is the key to continue with if jobs are left."""

    done: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    after: UUID | None = None


def delete(actor: Actor, job_id: UUID) -> None:
    """Delete one job with its results, and its query picture.

    Raises:
        NotFound: no such job.
        Forbidden: it is another account's, in a collection that this account may not change.
        Conflict: it is not over.
    """
    _apply(actor, BulkAction.DELETE, lambda session: control.delete_job(session, actor, job_id))


def apply_to(actor: Actor, action: BulkAction, job_ids: Sequence[UUID]) -> BulkResult:
    """Apply ``action`` to those of these jobs that allow it, at most ``MAX``."""
    result = BulkResult()
    for start in range(0, min(len(job_ids), MAX), BATCH):
        _add(result, actor, action, job_ids[start : start + BATCH])
    return result


def apply_to_all(
    actor: Actor, action: BulkAction, filters: JobFilters, *, upto: UUID, after: UUID | None = None
) -> BulkResult:
    """Apply ``action`` to the matching jobs that allow it, newest first, at most ``MAX``.

    Jobs with keys above ``upto`` were submitted after the confirmation was shown, and are skipped.
    """
    result = BulkResult(after=after)
    for _ in range(MAX // BATCH):
        with transaction(services().sessions) as session:
            conditions = [*filters.matching(actor), Job.id <= upto]
            ids = listing.keys(session, actor, conditions, control.allowed(action), after=result.after, limit=BATCH)
        result.after = ids[-1] if len(ids) == BATCH else None
        if ids:
            _add(result, actor, action, ids)
        if result.after is None:
            break
    return result


def _add(result: BulkResult, actor: Actor, action: BulkAction, job_ids: Sequence[UUID]) -> None:
    done = _apply(actor, action, lambda session: control.apply_to_jobs(session, actor, action, job_ids))
    result.done += len(done.jobs)
    result.refused += done.refused


def _apply(actor: Actor, action: BulkAction, do: Callable[[Session], JobChanges]) -> JobChanges:
    """Run ``do`` in one transaction with its audit entries; after the commit, notify workers and delete pictures."""

    def recorded(session: Session) -> JobChanges:
        done = do(session)
        _record(session, actor, action, done.jobs)
        return done

    done = run_transaction(services().sessions, recorded)
    services().notifier.notify(done.units)
    for key in done.pictures:
        delete_picture(key)
    return done


def _record(session: Session, actor: Actor, action: BulkAction, jobs: Sequence[Job]) -> None:
    if action is not BulkAction.DELETE:
        for job in jobs:
            record_job(session, actor, _AUDIT_ACTIONS[action], job)
        return
    deleted: dict[UUID | None, list[str]] = defaultdict(list)
    for job in jobs:
        deleted[job.collection_id].append(str(job.id))
    for collection_id, ids in deleted.items():
        target = "1 job" if len(ids) == 1 else f"{len(ids)} jobs"
        record(
            session,
            Action.JOBS_DELETED,
            target=target,
            collection_id=collection_id,
            user=actor,
            count=len(ids),
            jobs=ids,
        )
