"""The job handler of uploads: pictures first, then captions and texts, then the vectors of what arrived."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import FileStatus, Stage
from retllm.db.tables import Item, Job, Unit
from retllm.db.uploads import Upload, UploadFile
from retllm.indexing.handler import INDEX_HANDLER
from retllm.indexing.indexed import is_ready
from retllm.indexing.submit import to_embed
from retllm.queue.handlers import JobHandler, NextUnits
from retllm.settings import get_settings
from retllm.uploads.submit import waiting

CAPTIONS = "captions"
"""The pass of the unit that reads the sheets and texts of an upload."""
FAILED = "failed"
"""The error code of files whose unit is dead."""


def _next_units(session: Session, job: Job) -> NextUnits | None:
    upload = session.get_one(Upload, job.id, populate_existing=True)
    if upload.closed_at is None:
        return Stage.MEDIA, []
    captions = session.scalars(sa.select(UploadFile.id).where(*waiting(job.id)).order_by(UploadFile.id)).all()
    if captions:
        return Stage.MEDIA, [{"items": [str(file) for file in captions], "pass": CAPTIONS}]
    if not job.params["index"]:
        return None
    if _is_embedded(session, job.id):
        return None
    arrived = sa.select(UploadFile.item_id).where(UploadFile.job_id == job.id, UploadFile.item_id.is_not(None))
    ready = sa.select(Item.id).where(Item.id.in_(arrived), is_ready())
    payloads = to_embed(session, ready, job.params, get_settings())
    return (Stage.EMBED, payloads) if payloads else None


def _is_embedded(session: Session, job_id: UUID) -> bool:
    """Return whether there were units for the vectors since the last file was processed, which a retry does anew."""
    last = sa.select(sa.func.max(Unit.finished_at)).where(Unit.job_id == job_id, Unit.stage == Stage.MEDIA)
    since = sa.func.coalesce(last.scalar_subquery(), Unit.created_at)
    query = sa.select(Unit.id).where(Unit.job_id == job_id, Unit.stage == Stage.EMBED, Unit.created_at >= since)
    return session.scalar(query.limit(1)) is not None


def _on_dead(session: Session, job: Job, unit: Unit, error: str, at_fault: bool) -> None:
    """Reject the file, which can be tried again; for a vector do what an index job does."""
    if unit.stage is not Stage.MEDIA:
        INDEX_HANDLER.on_dead(session, job, unit, error, at_fault)
        return
    if at_fault:
        unit.error = f"{session.get_one(UploadFile, UUID(unit.payload['items'][0])).name}: {error}"
    files = [UUID(file) for file in unit.payload["items"]]
    session.execute(
        sa.update(UploadFile)
        .where(UploadFile.id.in_(files), UploadFile.status == FileStatus.WAITING)
        .values(status=FileStatus.REJECTED, error_code=FAILED, error=error)
    )


def _finish(_session: Session, _job: Job) -> None:
    """Do nothing: the units have stored the items, their outcomes and the vectors."""


def _reopen(session: Session, _job: Job, units: Sequence[Unit]) -> None:
    """Make the files of these units wait again."""
    files = [UUID(file) for unit in units if unit.stage is Stage.MEDIA for file in unit.payload["items"]]
    session.execute(
        sa.update(UploadFile)
        .where(UploadFile.id.in_(files), UploadFile.error_code == FAILED)
        .values(status=FileStatus.WAITING, error_code=None, error=None)
    )


UPLOAD_HANDLER = JobHandler(next_units=_next_units, on_dead=_on_dead, finish=_finish, reopen=_reopen)
