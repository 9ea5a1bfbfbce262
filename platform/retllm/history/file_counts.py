"""How many files of uploads have which outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from retllm.db.enums import FileStatus
from retllm.db.state_words import PROBLEMS
from retllm.db.uploads import Upload, UploadFile
from retllm.media.sniffing import PICTURED, FileKind

OUTCOMES_COUNTED = (
    "number of outcomes by status: of files, entries of archives, pages and rows, "
    "also of those that are listed together"
)

PARTS_COUNTED = "how many of the problems in `counts` are no files: `row` of a sheet, `page` of a document or film"
_DESCRIBING = (FileKind.CSV, FileKind.JSONL, FileKind.XMP, FileKind.TEXT)
# files of an upload, and entries, of which one may name it
_LOOKED_AT = 100


class FileCounts(BaseModel):
    """How often an upload has which outcome, whether it is open, and how many of its files are still to come."""

    model_config = ConfigDict(frozen=True)

    counts: Mapping[FileStatus, int] = Field(description=OUTCOMES_COUNTED)
    parts: Mapping[FileStatus, Mapping[str, int]] = Field(default={}, description=PARTS_COUNTED)
    open: bool = Field(default=False, description="whether it takes more files")
    expected: int = Field(default=0, description="how many files an open upload was to get, if its client said so")
    first: str | None = Field(default=None, description="name of its first folder, archive or file; null if none came")
    to_come: int = Field(default=0, description="how many files an open upload still expects, if its client said so")


NO_FILES = FileCounts(counts={})
"""The counts of an upload to which nothing came and which expects nothing."""


def file_counts(session: Session, job_ids: Sequence[UUID]) -> dict[UUID, FileCounts]:
    """Return the counts of those jobs that have files or are open, with at most three queries."""
    query = (
        sa.select(UploadFile.job_id, UploadFile.status, sa.func.sum(UploadFile.count), _first())
        .where(UploadFile.job_id.in_(job_ids))
        .group_by(UploadFile.job_id, UploadFile.status)
    )
    counts: dict[UUID, dict[FileStatus, int]] = {}
    named: dict[UUID, str] = {}
    for job_id, status, count, name in session.execute(query):
        counts.setdefault(job_id, {})[status] = count
        named[job_id] = name
    parts = _parts(session, [job_id for job_id, found in counts.items() if not found.keys().isdisjoint(PROBLEMS)])
    still_open = _open(session, job_ids)
    return {
        job_id: FileCounts(
            counts=counts.get(job_id, {}),
            parts=parts.get(job_id, {}),
            first=named.get(job_id),
            **still_open.get(job_id, {}),
        )
        for job_id in {**counts, **still_open}
    }


def _first() -> sa.ScalarSelect[str]:
    """Return the query of the first folder, archive or file of an upload, if possible of one that describes no others.

    Those that do are sent first.
    """
    file = sa.orm.aliased(UploadFile)
    columns = (file.id, file.name, file.content, file.parent_id)
    # entries too, so that no more rows are read; they come after their archive
    rows = sa.select(*columns).where(file.job_id == UploadFile.job_id).order_by(file.id).limit(_LOOKED_AT)
    few = rows.correlate(UploadFile).subquery()
    describes = sa.func.coalesce(few.c.content, "").in_(_DESCRIBING)
    names = sa.select(sa.func.split_part(few.c.name, "/", 1)).where(few.c.parent_id.is_(None))
    return names.order_by(describes, few.c.id).limit(1).correlate(UploadFile).scalar_subquery()


def _parts(session: Session, job_ids: Sequence[UUID]) -> dict[UUID, dict[FileStatus, dict[str, int]]]:
    """Return how many of the problems of each upload are rows of sheets, or pages of documents.

    What is missing of an archive counts as a file.
    """
    if not job_ids:
        return {}
    whole = sa.orm.aliased(UploadFile)
    word = sa.case((whole.content.in_(PICTURED), "page"), else_="row").label("word")
    query = (
        sa.select(UploadFile.job_id, UploadFile.status, word, sa.func.sum(UploadFile.count))
        .join(whole, whole.id == UploadFile.parent_id)
        .where(UploadFile.job_id.in_(job_ids), UploadFile.status.in_(PROBLEMS), UploadFile.entry.is_(None))
        .where(sa.func.coalesce(whole.content, "") != FileKind.ARCHIVE)
        .group_by(UploadFile.job_id, UploadFile.status, word)
        .order_by(word)
    )
    found: dict[UUID, dict[FileStatus, dict[str, int]]] = {}
    for job_id, status, name, count in session.execute(query):
        found.setdefault(job_id, {}).setdefault(status, {})[name] = count
    return found


def come(job_id: Any) -> sa.Select[int]:
    """Return the query of how many files of an upload are no longer to come, of those that its client counts."""
    # clutter that it leaves out has no size, and is none of these
    is_left_out = sa.and_(UploadFile.status == FileStatus.IGNORED, UploadFile.size_bytes.is_(None))
    return sa.select(sa.func.coalesce(sa.func.sum(UploadFile.count), 0)).where(
        UploadFile.job_id == job_id, UploadFile.parent_id.is_(None), ~is_left_out
    )


def count_not_kept(session: Session, job_id: UUID) -> int:
    """Return how many rejected files of an upload have to be sent again to be tried again."""
    sent = (UploadFile.job_id == job_id, UploadFile.parent_id.is_(None), UploadFile.file_key.is_(None))
    query = sa.select(sa.func.coalesce(sa.func.sum(UploadFile.count), 0))
    return int(session.scalar(query.where(*sent, UploadFile.status == FileStatus.REJECTED)) or 0)


def _open(session: Session, job_ids: Sequence[UUID]) -> dict[UUID, dict[str, Any]]:
    """Return what the counts of each open upload say besides its outcomes."""
    missing = (Upload.expected - come(Upload.id).scalar_subquery()).label("missing")
    is_open = (Upload.id.in_(job_ids), Upload.closed_at.is_(None))
    rows = session.execute(sa.select(Upload.id, Upload.expected, missing).where(*is_open))
    return {
        job_id: {"open": True, "expected": expected, "to_come": max(0, int(count))} for job_id, expected, count in rows
    }
