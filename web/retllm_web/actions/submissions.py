"""Submission of jobs: commit first, then notify the workers (design: jobs). Shared by the API and the pages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO
from uuid import UUID

import sqlalchemy as sa
import structlog
from sqlalchemy.orm import Session

from retllm.db.enums import Positions
from retllm.db.jobs import Job
from retllm.db.session import run_transaction, transaction
from retllm.db.tables import Collection, Item
from retllm.history import control
from retllm.history.job_views import JobView, RetriedJobView, job_view, retried_view
from retllm.identity.access import collection_for, job_for
from retllm.identity.actor import Actor
from retllm.identity.audit import Action
from retllm.indexing.submit import submit_index
from retllm.media import copies, query_pictures, streams
from retllm.media.pictures import check_length
from retllm.queue.submission import Submitted
from retllm.search import coarse, several
from retllm.search.request import SearchRequest, SeveralRequest
from retllm.search.submit import StoredPicture, submit_search
from retllm_web.actions.auditing import record
from retllm_web.http import decoding
from retllm_web.http.pictures import PlainCopy, plain_copy
from retllm_web.http.services import services

log = structlog.get_logger(__name__)

# characters of the query text in an audit entry
_TARGET = 100


@dataclass(frozen=True)
class EarlierPicture:
    """The picture of an earlier search, by its storage key and the key of that search."""

    key: str
    search_id: UUID


QueryPicture = BinaryIO | Item | EarlierPicture
"""A picture that was sent (seekable), that of an item, or that of an earlier search; only the first one is decoded."""


def index(actor: Actor, collection_id: UUID, *, idempotency_key: str | None = None) -> JobView:
    """Submit an index job.

    Raises:
        NotFound: no such collection.
        Conflict: it is empty, or the idempotency key belongs to another request.
    """
    settings = services().settings
    return submit(
        actor, lambda session: submit_index(session, actor, collection_id, settings, idempotency_key=idempotency_key)
    )


def submit(actor: Actor, do: Callable[[Session], Submitted]) -> JobView:
    """Accept a job in one transaction with its audit entry, then notify the workers."""
    submitted, view = _accept(actor, do)
    services().notifier.notify(submitted.units)
    return view


def _accept(actor: Actor, do: Callable[[Session], Submitted]) -> tuple[Submitted, JobView]:
    def recorded(session: Session) -> tuple[Submitted, JobView]:
        submitted = do(session)
        if submitted.created:
            record_job(session, actor, Action.JOB_SUBMITTED, submitted.job)
        return submitted, job_view(session, submitted.job)

    return run_transaction(services().sessions, recorded)


def search(
    actor: Actor,
    collection_id: UUID | None,
    request: SearchRequest,
    *,
    picture: QueryPicture | None = None,
    idempotency_key: str | None = None,
) -> JobView:
    """Submit a search job; ``picture`` is checked and stored first.

    Without ``collection_id`` it is a ``SeveralRequest``, which says what to search.

    Raises:
        NotFound: no such collection.
        MediaRejected: the picture cannot be decoded.
        TooLarge: it has too many bytes or pixels.
        Busy: too many wait for a decoder.
        InvalidInput: the query is empty, or a field is out of bounds.
        Conflict: the collection is empty or not indexed, or the idempotency key belongs to another request.
    """
    stored = _store_picture(actor, collection_id, request, picture) if picture is not None else None
    accepted = False
    try:
        submitted, view = _accept(
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
        # the commit may have succeeded although its answer got lost, so keep the picture
        accepted = True
        raise
    finally:
        # rejected, or an earlier request with the same idempotency key made the job and stored its own picture
        if stored is not None and not accepted:
            delete_picture(stored.key)
    services().notifier.notify(submitted.units)
    return view


def search_of_several(
    actor: Actor, request: SeveralRequest, *, picture: QueryPicture | None = None, idempotency_key: str | None = None
) -> JobView:
    """Submit a search of the collections that the request names, see :func:`search`; of one if it names only one."""
    collection_id, query = request.of_one() or (None, request)
    return search(actor, collection_id, query, picture=picture, idempotency_key=idempotency_key)


def _store_picture(
    actor: Actor, collection_id: UUID | None, request: SearchRequest, picture: QueryPicture
) -> StoredPicture:
    """Check and store the picture, if ``actor`` may search the collections."""
    found = services()
    settings, storage = found.settings, found.storage
    with transaction(found.sessions) as session:
        if isinstance(request, SeveralRequest):
            several.asked(session, actor, request)
        elif collection_id is not None:
            collection_for(session, actor, collection_id)
        tells = _tells_place(session, picture, collection_id)
    if isinstance(picture, Item | EarlierPicture) and tells:
        with _plain(picture).stream as plain:
            return _store_sent(plain)
    if isinstance(picture, Item):
        key = query_pictures.copy_of_item(storage, settings, picture)
    elif isinstance(picture, EarlierPicture):
        key = query_pictures.copy_of_query(storage, settings, picture.key)
    else:
        return _store_sent(picture)
    with storage.open(key) as copy:
        return StoredPicture(key, streams.digest(copy, storage.size(key)))


def _store_sent(picture: BinaryIO) -> StoredPicture:
    settings = services().settings
    check_length(picture, settings)
    sha256 = streams.digest(picture, settings.max_file_bytes)
    made = decoding.decoded(sha256, lambda: query_pictures.inspect(picture, settings))
    return StoredPicture(query_pictures.store(services().storage, settings, picture, made), sha256)


def _tells_place(session: Session, picture: QueryPicture, collection_id: UUID | None) -> bool:
    """Return whether a picture comes from another collection, of which not all may have the originals.

    Whoever sees the search in this collection may have its picture.
    """
    if isinstance(picture, Item):
        of = [session.get_one(Collection, picture.collection_id)]
    elif isinstance(picture, EarlierPicture):
        of = coarse.collections_of(session, session.get_one(Job, picture.search_id))
    else:
        return False
    return any(one.id != collection_id and one.positions is not Positions.EVERYONE for one in of)


def _plain(picture: Item | EarlierPicture) -> PlainCopy:
    if isinstance(picture, Item):
        return plain_copy(picture.picture_key or "", picture.content_sha256, picture.copy_key)
    return plain_copy(picture.key, picture.key, copies.key_beside(picture.key, services().settings))


def delete_picture(key: str) -> None:
    """Delete a query picture that no search refers to."""
    try:
        query_pictures.delete(services().storage, key)
    except OSError as error:  # an unreferenced file is harmless
        log.warning("picture_left_behind", key=key, reason=str(error))


def record_job(session: Session, actor: Actor, action: Action, job: Job) -> None:
    """Record an action on a job in the audit log."""
    target = str(job.params.get("text") or "")[:_TARGET] or f"{job.kind} job"
    record(session, action, target=target, target_id=job.id, collection_id=job.collection_id, user=actor, kind=job.kind)


def cancel(actor: Actor, job_id: UUID) -> JobView:
    """Request the cancellation of a job.

    Raises:
        NotFound: no such job.
        Conflict: it is already over.
    """

    def recorded(session: Session) -> JobView:
        job = control.cancel_job(session, actor, job_id)
        record_job(session, actor, Action.JOB_CANCELLED, job)
        return job_view(session, job)

    return run_transaction(services().sessions, recorded)


def retry(actor: Actor, job_id: UUID) -> RetriedJobView:
    """Retry the dead and cancelled units of a job, or else the rejected files and rows of an upload.

    Returns the job with what is tried again.

    Raises:
        NotFound: no such job.
        Conflict: it is not over, or it has nothing that can be tried again.
    """

    def recorded(session: Session) -> tuple[Submitted, RetriedJobView]:
        before = job_view(session, job_for(session, actor, job_id))
        submitted = control.retry_job(session, actor, job_id)
        record_job(session, actor, Action.JOB_RETRIED, submitted.job)
        return submitted, retried_view(session, submitted.job, before)

    submitted, view = run_transaction(services().sessions, recorded)
    services().notifier.notify(submitted.units)
    return view
