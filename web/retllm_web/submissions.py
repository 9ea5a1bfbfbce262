"""Handing work to the job core: commit first, announce then (design: jobs). The API and the pages share this."""

from __future__ import annotations

from typing import BinaryIO
from uuid import UUID

import structlog

from retllm.access import collection_for
from retllm.db.session import transaction
from retllm.db.tables import User, new_id
from retllm.jobs import control, submit
from retllm.jobs.schemas import JobView, SearchRequest
from retllm.jobs.submit import StoredPicture
from retllm.jobs.views import job_view
from retllm.media import streams
from retllm.media.pictures import load_picture
from retllm_web.services import services

log = structlog.get_logger(__name__)


def index(user: User, collection_id: UUID, *, idempotency_key: str | None = None) -> JobView:
    """Submit an index job.

    Raises:
        NotFound: no such collection.
        Conflict: it is empty, or the idempotency key stands for another request.
    """
    with transaction(services().sessions) as session:
        submitted = submit.submit_index(
            session, user, collection_id, services().settings, idempotency_key=idempotency_key
        )
        view = job_view(session, submitted.job)
    services().announcer.announce(submitted.units)
    return view


def search(
    user: User,
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
    stored = _stored(user, collection_id, picture) if picture is not None else None
    accepted = False
    try:
        with transaction(services().sessions) as session:
            submitted = submit.submit_search(
                session,
                user,
                collection_id,
                request,
                services().settings,
                picture=stored,
                idempotency_key=idempotency_key,
            )
            view = job_view(session, submitted.job)
        accepted = submitted.created
    finally:
        # refused, or the same key had made the job before, with a picture of its own
        if stored is not None and not accepted:
            _forget(stored)
    services().announcer.announce(submitted.units)
    return view


def _stored(user: User, collection_id: UUID, picture: BinaryIO) -> StoredPicture:
    """Check the picture and keep it; nothing is kept for a collection that this user can't search."""
    settings = services().settings
    with transaction(services().sessions) as session:
        collection_for(session, user, collection_id)
    load_picture(picture, settings)
    sha256 = streams.digest(picture, settings.max_file_bytes)
    key = f"queries/{new_id()}/picture"
    services().storage.put(key, picture)
    return StoredPicture(key, sha256)


def _forget(stored: StoredPicture) -> None:
    try:
        services().storage.delete(stored.key)
    except OSError as error:  # a file that nothing names does no harm
        log.warning("picture_left_behind", key=stored.key, reason=str(error))


def cancel(user: User, job_id: UUID) -> JobView:
    """Ask for the end of a job.

    Raises:
        NotFound: no such job.
        Conflict: it is over already.
    """
    with transaction(services().sessions) as session:
        return job_view(session, control.cancel_job(session, user, job_id))


def retry(user: User, job_id: UUID) -> JobView:
    """Give what failed of a job new attempts.

    Raises:
        NotFound: no such job.
        Conflict: it is still at work, or nothing of it failed.
    """
    with transaction(services().sessions) as session:
        submitted = control.retry_job(session, user, job_id)
        view = job_view(session, submitted.job)
    services().announcer.announce(submitted.units)
    return view
