"""Tries the rejected files of an upload again whose bytes are kept."""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import FileStatus, JobState, Stage, UnitState
from retllm.db.jobs import Job, Unit
from retllm.db.uploads import UploadFile
from retllm.errors import Conflict
from retllm.history.retries import RETRY
from retllm.media.sniffing import FileKind
from retllm.queue import lifecycle
from retllm.queue.routing import Notification
from retllm.uploads.kept import FAILED, to_try_again
from retllm.uploads.submit import UNIT_FILES

_NOTHING_KEPT = (
    "The server keeps nothing of this upload that it could try again: upload the same files again, corrected where "
    "they were rejected; what is in the collection already is not sent twice."
)


def retry_rejected(session: Session, job: Job) -> list[Notification]:
    """Make the rejected files of an upload wait again, with those whose unit is dead or was cancelled.

    A sheet with refused rows, or a document or film with refused parts, is read again for these.

    The job is locked; it is queued again if it is over. Returns the units to notify workers of.

    Raises:
        Conflict: nothing can be tried again.
    """
    # the files of dead units wait again when these units do, those that a cancellation left when the job does
    files = session.scalars(to_try_again(job.id).where(is_refused())).all()
    halted = [Unit.state.in_([UnitState.DEAD, UnitState.CANCELLED]), Unit.stage != Stage.MEDIA]
    vectors = sa.select(Unit.id).where(Unit.job_id == job.id, *halted).limit(1)
    # what was processed before a cancellation still has to be indexed
    came = sa.select(UploadFile.id).where(UploadFile.job_id == job.id, UploadFile.item_id.is_not(None)).limit(1)
    goes_on = job.state is JobState.CANCELLED and session.scalar(came) is not None
    if session.scalar(to_try_again(job.id).limit(1)) is None and session.scalar(vectors) is None and not goes_on:
        raise Conflict(_NOTHING_KEPT)
    for file in files:
        file.status, file.error_code, file.error = FileStatus.WAITING, None, None
    session.flush()
    label = f"{RETRY}-{_retries(session, job.id) + 1}"
    alone = [[file] for file in files if file.content == FileKind.ARCHIVE and file.parent_id is None]
    # sheets and texts too, which a pass of captions reads afterwards: the retry's progress is that of these units
    others = [file for file in files if [file] not in alone]
    batches = alone + [others[start : start + UNIT_FILES] for start in range(0, len(others), UNIT_FILES)]
    payloads = [{"items": [str(file.id) for file in batch], "pass": label} for batch in batches]
    return lifecycle.append_units(session, job, Stage.MEDIA, payloads) + lifecycle.reopen(session, job)


def something_left() -> sa.ColumnElement[bool]:
    """Return the condition that an upload has files that a retry would try again."""
    return to_try_again(Job.id).order_by(None).exists()


def is_refused() -> sa.ColumnElement[bool]:
    """Return the condition that a file is at fault itself: no failure and no cancellation left it."""
    code = sa.func.coalesce(UploadFile.error_code, "")
    return sa.and_(code != FAILED, UploadFile.status != FileStatus.UNPROCESSED)


def _retries(session: Session, job_id: UUID) -> int:
    labels = sa.select(sa.func.count(sa.distinct(Unit.payload["pass"].astext))).where(
        Unit.job_id == job_id, Unit.stage == Stage.MEDIA, Unit.payload["pass"].astext.startswith(f"{RETRY}-")
    )
    return session.scalar(labels) or 0
