"""Submission of uploads: open one, add files to it, close it. Each file is stored first, then named by a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import OPEN_UNITS, FileStatus, JobKind, JobState, Stage
from retllm.db.jobs import Job, Unit
from retllm.db.session import Sessions, run_transaction
from retllm.db.uploads import Upload, UploadFile
from retllm.errors import Conflict, NotFound
from retllm.identity.access import Right, collection_for
from retllm.identity.actor import Actor
from retllm.indexing.submit import embedders_for, embedding_params
from retllm.media.sniffing import FileKind
from retllm.queue import lifecycle
from retllm.queue.routing import Notification
from retllm.queue.submission import Submitted, insert_job
from retllm.settings import Settings
from retllm.uploads import large_files, rest, unsent
from retllm.uploads.receive import ReceivedFile

UNIT_FILES = 32
"""Maximum number of files in one unit of an upload."""
_UNIT_BYTES = 64 << 20
IMPORT = "import"
"""In the payload of a unit that imports files into the upload of its job: what it imports (``retllm.imports``)."""


def open_upload(
    session: Session,
    actor: Actor,
    collection_id: UUID,
    settings: Settings,
    *,
    index: bool = True,
    texts: bool = False,
    expected: int = 0,
    idempotency_key: str | None = None,
    job_id: UUID | None = None,
) -> Submitted:
    """Open an upload into a collection; it is a job from now on, and takes files until it is closed.

    Args:
        index: whether to embed what arrives.
        texts: whether the rows of a sheet that name no picture become texts.
        expected: how many files are to come, if that is known.
        job_id: the key of the new job, under which files may be stored before.

    Raises:
        NotFound: the collection does not exist.
        Forbidden: this account may not change it.
        Conflict: the idempotency key belongs to a different request.
    """
    collection = collection_for(session, actor, collection_id, Right.CHANGE)
    params = embedding_params(embedders_for(collection, settings), settings) | {"index": index, "texts": texts}
    job, created = insert_job(session, actor, collection_id, JobKind.UPLOAD, params, idempotency_key, job_id=job_id)
    if created:
        session.add(Upload(id=job.id, expected=expected))
        session.flush()
    return Submitted(job, [], created=created)


def add_files(session: Session, job_id: UUID, files: Sequence[ReceivedFile]) -> list[Notification]:
    """Add received files to an open upload; return the units to notify workers of.

    Raises:
        NotFound: the upload was deleted, for example with its collection.
        Conflict: it takes no more files.
    """
    job = lock_open(session, job_id)
    unsent.forget(session, job_id, {file.name for file in files if file.ignored is None})
    session.add_all(UploadFile(job_id=job_id, **file.columns()) for file in files)
    session.execute(sa.update(Upload).where(Upload.id == job_id).values(active_at=sa.func.now()))
    session.flush()
    return lifecycle.append_units(session, job, Stage.MEDIA, list(_units(files)))


def _units(files: Sequence[ReceivedFile]) -> Iterator[dict[str, Any]]:
    """Yield the payloads of units: an archive, PDF or film alone, pictures together; the others wait for them."""
    batch: list[str] = []
    size = 0
    for file in files:
        if file.content in (FileKind.ARCHIVE, FileKind.PDF, FileKind.FILM):
            yield {"items": [str(file.id)]}
        if file.content is not FileKind.PICTURE:
            continue
        if batch and (len(batch) >= UNIT_FILES or size + file.size > _UNIT_BYTES):
            yield {"items": batch}
            batch, size = [], 0
        batch.append(str(file.id))
        size += file.size
    if batch:
        yield {"items": batch}


def close_upload(session: Session, job_id: UUID, reason: str = unsent.LEFT) -> list[Notification]:
    """Take no more files; return the units to notify workers of. A closed upload stays as it is.

    Args:
        reason: why expected files that did not come are not sent, and what to do about it.

    Raises:
        NotFound: the upload was deleted.
    """
    job = lifecycle.lock_job(session, job_id)
    if job is None:
        raise NotFound("There is no such upload.")
    return lifecycle.finish_if_complete(session, job) if end_upload(session, job, reason) else []


def end_upload(session: Session, job: Job, reason: str = unsent.LEFT) -> bool:
    """Do the same in a transaction that has locked the job and looks afterwards whether it is complete.

    Returns false if the upload was closed before.
    """
    if not close(session, session.get_one(Upload, job.id, populate_existing=True), reason):
        return False
    rest.settle(session, job)
    return True


def close(session: Session, upload: Upload, reason: str) -> bool:
    """Let an upload, whose job is locked, take no more files; return false if it was closed before.

    Expected files that did not come are noted with ``reason``.
    """
    if upload.closed_at is not None:
        return False
    upload.closed_at = sa.func.now()
    unsent.note_missing(session, upload, reason)
    large_files.reject_incomplete(session, upload.id)
    return True


def lock_open(session: Session, job_id: UUID, *, or_cancelled: bool = False) -> Job:
    """Lock the job of an open upload; with ``or_cancelled`` also that of one that was cancelled.

    Raises:
        NotFound: it was deleted.
        Conflict: it takes no more files; ``detail["cancelled"]`` says whether because it was cancelled.
    """
    job = lifecycle.lock_job(session, job_id)
    upload = session.get(Upload, job_id, populate_existing=True)
    if job is None or upload is None:
        raise NotFound("There is no such upload.")
    if job.cancel_requested or job.state is JobState.CANCELLED:
        if or_cancelled:
            return job
        told = "The job of this upload was cancelled. Retry it for what arrived, and upload the rest again."
        raise Conflict(told, job_id=str(job_id), cancelled=True)
    if upload.closed_at is not None or job.finished_at is not None:
        raise Conflict("This upload takes no more files: begin another one.", job_id=str(job_id), cancelled=False)
    return job


def close_idle(sessions: Sessions, idle: timedelta) -> list[Notification]:
    """Close the uploads that have got no file for so long; return the units to notify workers of.

    An import closes its upload itself.
    """
    importing = sa.select(Unit.id).where(
        Unit.job_id == Upload.id, Unit.state.in_(OPEN_UNITS), Unit.payload.has_key(IMPORT)
    )
    before = sa.func.now() - idle
    with sessions() as session:
        left = sa.select(Upload.id).where(Upload.closed_at.is_(None), Upload.active_at < before, ~importing.exists())
        found = session.scalars(left).all()
    notified: list[Notification] = []
    for job_id in found:
        with suppress(NotFound):
            notified += run_transaction(sessions, partial(close_upload, job_id=job_id))
    return notified


def waiting(job_id: UUID) -> tuple[sa.ColumnElement[bool], ...]:
    """Return conditions for the files of an upload that no unit has processed yet."""
    return UploadFile.job_id == job_id, UploadFile.status == FileStatus.WAITING
