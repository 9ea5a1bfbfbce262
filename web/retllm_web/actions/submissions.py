"""Handing work to the job core: commit first, announce then (design: jobs). The API and the pages share this."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO
from uuid import UUID

import sqlalchemy as sa
import structlog
from sqlalchemy.orm import Session

from retllm.db.session import run_transaction, transaction
from retllm.db.tables import Job, new_id
from retllm.history import control
from retllm.history.job_views import JobView, job_view
from retllm.identity.access import collection_for
from retllm.identity.actor import Actor
from retllm.identity.audit import Action
from retllm.indexing.submit import submit_index
from retllm.media import streams
from retllm.media.pictures import check_picture
from retllm.queue.submission import Submitted
from retllm.search.request import SearchRequest
from retllm.search.submit import StoredPicture, submit_search
from retllm_web.actions.auditing import note
from retllm_web.http.services import services

log = structlog.get_logger(__name__)

# characters of a query by which the audit log names its job
_TARGET = 100


def index(actor: Actor, collection_id: UUID, *, idempotency_key: str | None = None) -> JobView:
    """Submit an index job.

    Raises:
        NotFound: no such collection.
        Conflict: it is empty, or the idempotency key stands for another request.
    """
    settings = services().settings
    return submit(
        actor, lambda session: submit_index(session, actor, collection_id, settings, idempotency_key=idempotency_key)
    )


def submit(actor: Actor, do: Callable[[Session], Submitted]) -> JobView:
    """Accept a job in one transaction with its entry in the audit log, then have its units announced."""
    submitted, view = _accepted(actor, do)
    services().notifier.notify(submitted.units)
    return view


def _accepted(actor: Actor, do: Callable[[Session], Submitted]) -> tuple[Submitted, JobView]:
    def noted(session: Session) -> tuple[Submitted, JobView]:
        submitted = do(session)
        if submitted.created:
            note_job(session, actor, Action.JOB_SUBMITTED, submitted.job)
        return submitted, job_view(session, submitted.job)

    return run_transaction(services().sessions, noted)


def search(
    actor: Actor,
    collection_id: UUID,
    request: SearchRequest,
    *,
    picture: BinaryIO | None = None,
    idempotency_key: str | None = None,
) -> JobView:
    """Submit a search job; ``picture`` is checked and stored first.

    Raises:
        NotFound: no such collection.
        MediaRejected: the picture is none.
        InvalidInput: the query is empty, or a field is out of bounds.
        Conflict: the collection is empty or not indexed, or the idempotency key stands for another request.
    """
    stored = _stored(actor, collection_id, picture) if picture is not None else None
    accepted = False
    try:
        submitted, view = _accepted(
            actor,
            lambda session: submit_search(
                session,
                actor,
                collection_id,
                request,
                services().settings,
                picture=stored,
                idempotency_key=idempotency_key,
            ),
        )
        accepted = submitted.created
    except sa.exc.DBAPIError:
        # a commit whose answer got lost may have made the search that names the picture
        accepted = True
        raise
    finally:
        # refused, or the same key had made the job before, with a picture of its own
        if stored is not None and not accepted:
            forget(stored.key)
    services().notifier.notify(submitted.units)
    return view


def _stored(actor: Actor, collection_id: UUID, picture: BinaryIO) -> StoredPicture:
    """Check the picture and keep it; nothing is kept for a collection that this user can't search."""
    settings = services().settings
    with transaction(services().sessions) as session:
        collection_for(session, actor, collection_id)
    check_picture(picture, settings)
    sha256 = streams.digest(picture, settings.max_file_bytes)
    key = f"queries/{new_id()}/picture"
    services().storage.put(key, picture)
    return StoredPicture(key, sha256)


def forget(key: str) -> None:
    """Delete a query picture that no search names."""
    try:
        services().storage.delete(key)
    except OSError as error:  # a file that nothing names does no harm
        log.warning("picture_left_behind", key=key, reason=str(error))


def note_job(session: Session, actor: Actor, action: Action, job: Job) -> None:
    """Put what is done to a job into the audit log."""
    target = str(job.params.get("text") or "")[:_TARGET] or f"{job.kind} job"
    note(session, action, target=target, target_id=job.id, collection_id=job.collection_id, user=actor, kind=job.kind)


def cancel(actor: Actor, job_id: UUID) -> JobView:
    """Ask for the end of a job.

    Raises:
        NotFound: no such job.
        Conflict: it is over already.
    """

    def noted(session: Session) -> JobView:
        job = control.cancel_job(session, actor, job_id)
        note_job(session, actor, Action.JOB_CANCELLED, job)
        return job_view(session, job)

    return run_transaction(services().sessions, noted)


def retry(actor: Actor, job_id: UUID) -> JobView:
    """Give what failed of a job new attempts.

    Raises:
        NotFound: no such job.
        Conflict: it is still at work, or nothing of it failed.
    """

    def noted(session: Session) -> tuple[Submitted, JobView]:
        submitted = control.retry_job(session, actor, job_id)
        note_job(session, actor, Action.JOB_RETRIED, submitted.job)
        return submitted, job_view(session, submitted.job)

    submitted, view = run_transaction(services().sessions, noted)
    services().notifier.notify(submitted.units)
    return view
