"""What of an upload is still to send or to apply: what was not sent with it, nor came with a later one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from retllm.db.deletion import WITH_DELETED
from retllm.db.enums import FileStatus, JobKind
from retllm.db.jobs import Job
from retllm.db.uploads import Upload, UploadFile
from retllm.errors import Incomplete, PictureNotSent
from retllm.media.sheets.targets import AGAIN, CAME
from retllm.uploads.expected import NOTES, came_later, has_come
from retllm.uploads.kept import to_try_again

_IGNORED: Mapping[str, Any] = {"status": FileStatus.IGNORED, "error": None}
_CAME_LATER = "Not sent with this upload; it came with a later one."
_SHOWN_EARLIER = 3

_ROW, _CAME = aliased(UploadFile), aliased(UploadFile)


@dataclass(frozen=True)
class Rest:
    """What became of the files that were not sent with an upload.

    Attributes:
        left: how many are still to send.
        came: how many came with later uploads to the collection.
        rows: how many rows of its sheets and sidecars are "not sent" too, since their pictures are.
        may_retry: whether the server keeps one of these, so that a retry applies it when its picture came.
    """

    left: int
    came: int
    rows: int
    may_retry: bool = False


@dataclass(frozen=True)
class EarlierRows:
    """An earlier upload with rows that are "not sent", and of which a later one brought files."""

    job_id: UUID
    rows: int


def rest_of(session: Session, job_id: UUID, counts: Mapping[FileStatus, int]) -> Rest:
    """Return what became of the files that were not sent with an upload.

    Args:
        counts: how often the upload has which outcome.
    """
    found = counts.get(FileStatus.NOT_SENT, 0)
    total = sa.func.coalesce(sa.func.sum(UploadFile.count), 0)
    missing = sa.select(total).where(UploadFile.job_id == job_id, _is_missing_file(UploadFile))
    left = session.scalars(missing).one() if found else 0
    came = sa.select(total).where(_came(UploadFile, job_id))
    again = to_try_again(job_id).where(UploadFile.status.in_([FileStatus.READ, FileStatus.NOT_SENT])).limit(1)
    return Rest(
        left=left,
        came=session.scalars(came).one() if counts.get(FileStatus.IGNORED) else 0,
        rows=found - left,
        may_retry=found > left and session.scalar(again) is not None,
    )


def settle(session: Session, job: Job) -> None:
    """Note what uploads to a collection lack no longer, since this one, whose job is locked, brings it, or a later one.

    The files and rows in question are "ignored" from now on. Those that another transaction changes are left alone, so
    that this one waits for nobody.
    """
    if session.scalar(_lacking(), {"collection_id": job.collection_id}) is None:
        return
    brought = sa.select(UploadFile.name).where(
        UploadFile.job_id == job.id, has_come(), UploadFile.status != FileStatus.UNPROCESSED
    )
    earlier = _earlier(job)
    is_missing = _is_missing_file(UploadFile)
    # of a large file that came in part, the hash is that of the whole
    came = {**_IGNORED, "remark": _CAME_LATER, "sha256": None}
    _change(session, [UploadFile.job_id == job.id, is_missing, UploadFile.name.in_(came_later(job))], came)
    _change(session, [UploadFile.job_id.in_(earlier), is_missing, UploadFile.name.in_(brought)], came)
    again = {**_IGNORED, "remark": "It came again with a later upload."}
    _change(session, [UploadFile.id.in_(_rows_that_came_again(job, earlier))], again)
    file = aliased(UploadFile)
    lacks = sa.select(file.id).where(file.job_id == UploadFile.job_id, _is_missing_file(file))
    is_row = UploadFile.parent_id.is_not(None), UploadFile.error.endswith(AGAIN, autoescape=True)
    told = {"error": sa.func.replace(UploadFile.error, AGAIN, CAME)}
    _change(session, [UploadFile.job_id.in_(earlier), *is_row, ~lacks.exists()], told)


@cache
def _lacking() -> sa.Select[UUID]:
    """Return the query of a file or row that an upload to a collection lacks, also to a deleted one."""
    # part of the text, so that the plan of a prepared statement can use the index of these
    not_sent = sa.literal(FileStatus.NOT_SENT, UploadFile.status.type, literal_execute=True)
    lacking = (Job.collection_id == sa.bindparam("collection_id"), UploadFile.status == not_sent)
    query = sa.select(UploadFile.id).join(Job, Job.id == UploadFile.job_id).where(*lacking).limit(1)
    return query.execution_options(**WITH_DELETED)


def earlier_rows(session: Session, job: Job) -> Sequence[EarlierRows]:
    """Return the newest earlier uploads of which this one brought files, and whose rows wait to be tried again."""
    waiting = _ROW.job_id == Job.id, _is_missing_row(_ROW)
    rows = sa.select(sa.func.sum(_ROW.count)).where(*waiting).scalar_subquery()
    brought = sa.select(UploadFile.name).where(UploadFile.job_id == job.id, has_come())
    query = sa.select(Job.id, rows).where(
        Job.id.in_(_earlier(job)),
        sa.select(_ROW.id).where(*waiting).exists(),
        sa.select(_CAME.id).where(_came(_CAME, Job.id), _CAME.name.in_(brought)).exists(),
    )
    found = session.execute(query.order_by(Job.id.desc()).limit(_SHOWN_EARLIER))
    return [EarlierRows(job_id, count) for job_id, count in found]


def _earlier(job: Job) -> sa.Select[UUID]:
    """Return the query of the earlier uploads to the collection of an upload that take no more files."""
    return (
        sa.select(Job.id)
        .join(Upload, Upload.id == Job.id)
        .where(
            *(Job.collection_id == job.collection_id, Job.kind == JobKind.UPLOAD),
            *(Job.id < job.id, Upload.closed_at.is_not(None)),
        )
    )


def _came(file: Any, job_id: Any) -> sa.ColumnElement[bool]:
    """Return the condition that a file was not sent with an upload, and came with a later one."""
    codes = file.error_code.in_([Incomplete.code, *NOTES])
    return sa.and_(file.job_id == job_id, file.status == FileStatus.IGNORED, file.parent_id.is_(None), codes)


def _is_missing_file(file: Any) -> sa.ColumnElement[bool]:
    # a sidecar whose picture did not come is here itself
    is_here = sa.func.coalesce(file.error_code, "") == PictureNotSent.code
    return sa.and_(file.status == FileStatus.NOT_SENT, file.parent_id.is_(None), ~is_here)


def _is_missing_row(row: Any) -> sa.ColumnElement[bool]:
    return sa.and_(row.status == FileStatus.NOT_SENT, ~_is_missing_file(row))


def _rows_that_came_again(job: Job, earlier: sa.Select[UUID]) -> sa.Select[UUID]:
    """Return the query of rows and sidecars of earlier uploads that this one has too, also in an archive."""
    row, sheet, archive, again = (aliased(UploadFile) for _ in range(4))
    files = sa.select(again.name, again.sha256).where(
        again.job_id == job.id, again.parent_id.is_(None), again.sha256.is_not(None)
    )
    same = sa.tuple_(sa.func.coalesce(archive.name, sheet.name), sa.func.coalesce(archive.sha256, sheet.sha256))
    return (
        sa.select(row.id)
        .join(sheet, sheet.id == sa.func.coalesce(row.parent_id, row.id))
        .outerjoin(archive, archive.id == sheet.parent_id)
        .where(row.job_id.in_(earlier), _is_missing_row(row), same.in_(files))
    )


def _change(session: Session, conditions: Sequence[sa.ColumnElement[bool]], values: Mapping[str, Any]) -> None:
    """Change those files and rows that are "not sent"."""
    keys = sa.select(UploadFile.id).where(UploadFile.status == FileStatus.NOT_SENT, *conditions)
    found = keys.with_for_update(skip_locked=True, of=UploadFile)
    change = sa.update(UploadFile).where(UploadFile.id.in_(found)).values(values)
    session.execute(change.execution_options(synchronize_session=False))
