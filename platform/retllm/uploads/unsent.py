"""Files that a client never sends: what it says of them, until they arrive after all."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import FileStatus
from retllm.db.many import insert_many
from retllm.db.tables import new_id
from retllm.db.uploads import Upload, UploadFile
from retllm.errors import Incomplete, NotSent
from retllm.media.outcomes import FileOutcome
from retllm.uploads.captions import columns_of


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
    is_note = sa.or_(UploadFile.error_code == NotSent.code, UploadFile.status == FileStatus.IGNORED)
    noted = (UploadFile.job_id == job_id, UploadFile.parent_id.is_(None), UploadFile.name.in_(names), is_note)
    session.execute(sa.delete(UploadFile).where(*noted))


def has_come() -> sa.ColumnElement[bool]:
    """Return the condition that a file came with its upload, whole, and is not only noted in it."""
    return sa.and_(
        UploadFile.parent_id.is_(None),
        sa.func.coalesce(UploadFile.error_code, "").not_in([Incomplete.code, NotSent.code]),
    )


def count_arrived(session: Session, job_id: UUID) -> int:
    """Return how many files came with an upload, without clutter."""
    query = sa.select(sa.func.count()).where(UploadFile.job_id == job_id, has_come())
    return session.scalar(query.where(UploadFile.status != FileStatus.IGNORED)) or 0
