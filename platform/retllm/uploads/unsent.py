"""Files that a client never sends: what it says of them, until they arrive after all, and what it announced in vain."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from retllm.db.counts import FileCount
from retllm.db.enums import FileStatus
from retllm.db.many import insert_many
from retllm.db.tables import new_id
from retllm.db.uploads import ExpectedFiles, Upload, UploadFile
from retllm.errors import NotSent
from retllm.history.file_counts import come
from retllm.media.file_table import clutter_of
from retllm.media.names import clean_name
from retllm.media.outcomes import FileOutcome
from retllm.uploads.captions import columns_of
from retllm.uploads.expected import NOTES, still_expected
from retllm.uploads.receive import missing

LEFT = "Not sent: the upload ended before this file came. Upload the same files again to send the rest."
"""Why an expected file is missing, if its client said nothing."""


def expect(session: Session, job_id: UUID, first: int, names: Sequence[str]) -> None:
    """Note names of files that are to come to an upload whose job is locked.

    Args:
        first: the place of the first of these among all that the client announces; the same place again adds nothing.
    """
    rows = insert(ExpectedFiles).values(job_id=job_id, first=first, names=[clean_name(name) for name in names])
    session.execute(rows.on_conflict_do_nothing())
    session.execute(sa.update(Upload).where(Upload.id == job_id).values(active_at=sa.func.now()))


def note_missing(session: Session, upload: Upload, reason: str) -> None:
    """Note every file that an upload, whose job is locked, expected and that neither came nor was noted.

    Clutter is not missed.
    """
    missing_names = session.scalars(still_expected([upload.id])).all()
    unnamed = _unnamed(session, upload, len(missing_names))
    rows = [{"name": name, "count": 1} for name in missing_names if clutter_of(name) is None]
    if unnamed > 0:
        rows.append({"name": "1 more file" if unnamed == 1 else f"{unnamed:,} more files", "count": unnamed})
    told = {"job_id": upload.id, **missing(NotSent(reason))}
    if rows:
        session.execute(insert_many(UploadFile, [{"id": new_id(), **told, **row} for row in rows]))
    session.execute(sa.delete(ExpectedFiles).where(ExpectedFiles.job_id == upload.id))


def _unnamed(session: Session, upload: Upload, missing: int) -> int:
    """Return how many expected files are missing besides ``missing`` ones, whose names are known."""
    named = sa.select(sa.func.coalesce(sa.func.sum(sa.func.cardinality(ExpectedFiles.names)), 0))
    never_named: int = upload.expected - session.scalars(named.where(ExpectedFiles.job_id == upload.id)).one()
    return min(never_named, upload.expected - come(session, upload.id) - missing)


def note(session: Session, job_id: UUID, outcomes: Sequence[FileOutcome]) -> None:
    """Note outcomes of files whose bytes never come, each once, in an upload whose job is locked.

    A name that the upload has already is left alone: the file may have arrived although its sender does not know.
    """
    by_name = {outcome.name: outcome for outcome in outcomes}
    query = sa.select(UploadFile.name).where(
        UploadFile.job_id == job_id, UploadFile.parent_id.is_(None), UploadFile.name.in_(by_name)
    )
    noted = set(session.scalars(query))
    rows = [
        {"id": new_id(), "job_id": job_id, "name": name, **columns_of(outcome)}
        for name, outcome in by_name.items()
        if name not in noted
    ]
    if rows:
        session.execute(insert_many(UploadFile, rows))
    session.execute(sa.update(Upload).where(Upload.id == job_id).values(active_at=sa.func.now()))


def forget(session: Session, job_id: UUID, names: Collection[str]) -> None:
    """Remove the notes on files that arrive after all, for example with a request that its sender gave up."""
    is_note = sa.or_(UploadFile.error_code.in_(NOTES), UploadFile.status == FileStatus.IGNORED)
    noted = (UploadFile.job_id == job_id, UploadFile.parent_id.is_(None), UploadFile.name.in_(names), is_note)
    session.execute(sa.delete(UploadFile).where(*noted))


def count_arrived(session: Session, job_id: UUID) -> int:
    """Return how many files came with an upload, without clutter."""
    return int(session.scalar(sa.select(sa.func.sum(FileCount.count)).filter_by(job_id=job_id, arrived=True)) or 0)
