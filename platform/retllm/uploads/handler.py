"""The job handler of uploads: pictures first, then captions and texts; vectors beside them, and the rest at the end."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import FileStatus, Stage
from retllm.db.jobs import Job, Unit
from retllm.db.many import one_of
from retllm.db.uploads import Upload, UploadFile
from retllm.errors import JobCancelled
from retllm.indexing.handler import INDEX_HANDLER
from retllm.indexing.vector_indexes import next_index_units
from retllm.queue import lifecycle
from retllm.queue.handlers import JobHandler, NextUnits
from retllm.settings import get_settings
from retllm.uploads.kept import FAILED
from retllm.uploads.rest import settle
from retllm.uploads.retry import retry_rejected, something_left
from retllm.uploads.submit import IMPORT, close, end_upload, waiting
from retllm.uploads.vectors import CAPTIONS, embed_rest

_UNSENT = "Not sent: the upload was cancelled. Upload the same files again to send the rest."


def _next_units(session: Session, job: Job) -> NextUnits | None:
    if _is_open(session, job):
        return Stage.MEDIA, []
    if captions := _captions(session, job):
        return captions
    if not job.params["index"]:
        return None
    payloads = embed_rest(session, job, get_settings())
    return (Stage.EMBED, payloads) if payloads else next_index_units(session, job)


def _ahead(session: Session, job: Job) -> NextUnits | None:
    """Return the unit of captions, which waits for all files, but not for vectors."""
    if _is_open(session, job) or session.scalar(lifecycle.open_unit(job.id, Stage.MEDIA)) is not None:
        return None
    return _captions(session, job)


def _is_open(session: Session, job: Job) -> bool:
    return session.get_one(Upload, job.id, populate_existing=True).closed_at is None


def _captions(session: Session, job: Job) -> NextUnits | None:
    files = session.scalars(sa.select(UploadFile.id).where(*waiting(job.id)).order_by(UploadFile.id)).all()
    if not files:
        return None
    label = Unit.payload["pass"].astext
    earlier = sa.select(sa.func.count(sa.distinct(label))).where(Unit.job_id == job.id, label.startswith(CAPTIONS))
    # a sheet that is tried again is read by a pass of its own
    passes = session.scalar(earlier) or 0
    name = f"{CAPTIONS}-{passes + 1}" if passes else CAPTIONS
    return Stage.MEDIA, [{"items": [str(file) for file in files], "pass": name}]


def _on_dead(session: Session, job: Job, unit: Unit, error: str, at_fault: bool) -> None:
    """Reject the file, which can be tried again; for a vector do what an index job does."""
    if unit.stage is not Stage.MEDIA:
        INDEX_HANDLER.on_dead(session, job, unit, error, at_fault)
        return
    if IMPORT in unit.payload:
        end_upload(session, job, f"Not sent: {error}")
        return
    if at_fault:
        unit.error = f"{session.get_one(UploadFile, UUID(unit.payload['items'][0])).name}: {error}"
    files = [UUID(file) for file in unit.payload["items"]]
    session.execute(
        sa.update(UploadFile)
        .where(one_of(UploadFile.id, files), UploadFile.status == FileStatus.WAITING)
        .values(status=FileStatus.REJECTED, error_code=FAILED, error=error)
    )


def _finish(_session: Session, _job: Job) -> None:
    """Do nothing: the units have stored the items, their outcomes and the vectors."""


def _cancelled(session: Session, job: Job) -> None:
    """Close the upload; the files that still wait are kept, so that a retry can go on with them."""
    close(session, session.get_one(Upload, job.id, populate_existing=True), _UNSENT)
    error = "The upload was cancelled before this file was processed: retry the upload, or send the file again."
    session.execute(
        sa.update(UploadFile)
        .where(*waiting(job.id))
        .values(status=FileStatus.UNPROCESSED, error_code=JobCancelled.code, error=error)
    )
    settle(session, job)


def _reopen(session: Session, job: Job, units: Sequence[Unit]) -> None:
    """Make the files of these units wait again, and all that waited when the upload was cancelled."""
    if any(IMPORT in unit.payload for unit in units):
        # it takes files again
        session.get_one(Upload, job.id, populate_existing=True).closed_at = None
    files = [UUID(file) for unit in units if unit.stage is Stage.MEDIA for file in unit.payload["items"]]
    failed = sa.and_(one_of(UploadFile.id, files), UploadFile.error_code == FAILED)
    session.execute(
        sa.update(UploadFile)
        .where(UploadFile.job_id == job.id, sa.or_(failed, UploadFile.status == FileStatus.UNPROCESSED))
        .values(status=FileStatus.WAITING, error_code=None, error=None)
    )


UPLOAD_HANDLER = JobHandler(
    next_units=_next_units,
    ahead=_ahead,
    on_dead=_on_dead,
    finish=_finish,
    cancelled=_cancelled,
    reopen=_reopen,
    again=retry_rejected,
    left=something_left,
)
