"""The received bytes of an upload: deleted with the outcome of the file, kept for a while if it was rejected.

Those of a sheet are kept if rows of it were refused, and those of a document or film if parts of it were.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from retllm.db.enums import FileStatus
from retllm.db.jobs import Job
from retllm.db.many import one_of
from retllm.db.session import Sessions, transaction
from retllm.db.state_words import PROBLEMS
from retllm.db.uploads import UNPACKED, UploadFile
from retllm.media.ingest import delete_files
from retllm.media.sniffing import FileKind
from retllm.media.storage import Storage

FAILED = "failed"
"""The error code of files whose unit is dead."""
KEPT = (FileStatus.WAITING, *PROBLEMS)
"""Files of these statuses may be tried again, so their bytes are kept."""
_BATCH = 500
# made once: an alias copies all columns
_ROW, _ARCHIVE, _ENTRY = aliased(UploadFile), aliased(UploadFile), aliased(UploadFile)
_IS_ARCHIVE = (sa.func.coalesce(UploadFile.content, "") == FileKind.ARCHIVE).label("is_archive")


def has_refused_rows(file: Any = UploadFile) -> sa.ColumnElement[bool]:
    """Return whether a file has refused rows or parts, or rows of pictures that were not sent; also for an alias.

    It may be read again for these.
    """
    refused = sa.select(_ROW.id).where(_ROW.parent_id == file.id, _ROW.entry.is_(None), _ROW.status.in_(PROBLEMS))
    return sa.and_(file.status == FileStatus.READ, file.content != FileKind.ARCHIVE, refused.exists())


def to_try_again(job_id: UUID | sa.SQLColumnExpression[UUID]) -> sa.Select[UploadFile]:
    """Return the query of the files of an upload whose bytes are kept: those without an item, and with refused rows."""
    kept = sa.or_(
        UploadFile.file_key.is_not(None), sa.and_(UploadFile.entry.is_not(None), _ARCHIVE.file_key.is_not(None))
    )
    return (
        sa.select(UploadFile)
        .outerjoin(_ARCHIVE, _ARCHIVE.id == UploadFile.parent_id)
        .where(UploadFile.job_id == job_id, kept)
        .where(sa.or_(UploadFile.status.in_(PROBLEMS), has_refused_rows()))
        .order_by(UploadFile.id)
    )


def release(session: Session, file_ids: Collection[UUID]) -> list[str]:
    """Forget the bytes of files that are over, and of archives whose entries are; return their storage keys.

    The caller deletes the files after its commit. A crash before that leaves files that nothing names.
    """
    open_entry = sa.select(_ENTRY.id).where(
        _ENTRY.parent_id == UploadFile.id,
        _ENTRY.entry.is_not(None),
        sa.or_(_ENTRY.status.in_(KEPT), has_refused_rows(_ENTRY)),
    )
    parents = sa.select(UploadFile.parent_id).where(one_of(UploadFile.id, file_ids), UploadFile.parent_id.is_not(None))
    rows = session.execute(
        sa.select(UploadFile.id, UploadFile.file_key, _IS_ARCHIVE).where(
            sa.or_(one_of(UploadFile.id, file_ids), UploadFile.id.in_(parents)),
            UploadFile.file_key.is_not(None),
            UploadFile.status.not_in(KEPT),
            ~has_refused_rows(),
            ~open_entry.exists(),
        )
    ).all()
    return _forget(session, rows)


def _forget(session: Session, rows: Sequence[Any]) -> list[str]:
    if rows:
        ids = [row.id for row in rows]
        session.execute(sa.update(UploadFile).where(one_of(UploadFile.id, ids)).values(file_key=None))
    # a cancelled attempt to list an archive may have left its other form, which no row names
    return [
        form
        for row in rows
        for form in ((row.file_key, row.file_key + UNPACKED) if row.is_archive else (row.file_key,))
    ]


def drop_old(sessions: Sessions, storage: Storage, age: timedelta) -> int:
    """Delete the kept bytes of uploads that have been over for ``age``; return the number of files."""
    dropped = 0
    while True:
        with transaction(sessions) as session:
            rows = session.execute(
                sa.select(UploadFile.id, UploadFile.file_key, _IS_ARCHIVE)
                .join(Job, Job.id == UploadFile.job_id)
                .where(UploadFile.file_key.is_not(None), Job.finished_at < sa.func.now() - age)
                .limit(_BATCH)
            ).all()
            keys = _forget(session, rows)
        delete_files(storage, keys)
        dropped += len(rows)
        if len(rows) < _BATCH:
            return dropped
