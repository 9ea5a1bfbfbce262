"""How many files of uploads have which outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from retllm.db.counts import FileCount
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

_FILE, _WHOLE = sa.orm.aliased(UploadFile), sa.orm.aliased(UploadFile)


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
    counts: dict[UUID, Counter[FileStatus]] = {}
    named: dict[UUID, str] = {}
    with_parts: set[UUID] = set()
    for job_id, status, part, count, name in session.execute(_counted(), {"job_ids": job_ids}):
        counts.setdefault(job_id, Counter())[status] += count
        named[job_id] = name
        if part and status in PROBLEMS:
            with_parts.add(job_id)
    parts = _parts(session, list(with_parts))
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


@cache
def _counted() -> sa.Select[UUID, FileStatus, bool, int, str]:
    number = sa.cast(sa.func.sum(FileCount.count), sa.BigInteger)
    of = (FileCount.job_id, FileCount.status, FileCount.part)
    return (
        sa.select(*of, number, _first(FileCount.job_id))
        .where(FileCount.job_id.in_(sa.bindparam("job_ids", expanding=True)))
        .group_by(*of)
        .having(number != 0)
    )


def _first(job_id: Any) -> sa.ScalarSelect[str]:
    """Return the query of the first folder, archive or file of an upload, if possible of one that describes no others.

    Those that do are sent first.
    """
    columns = (_FILE.id, _FILE.name, _FILE.content, _FILE.parent_id)
    # entries too, so that no more rows are read; they come after their archive
    rows = sa.select(*columns).where(_FILE.job_id == job_id).order_by(_FILE.id).limit(_LOOKED_AT)
    few = rows.correlate(FileCount).subquery()
    describes = sa.func.coalesce(few.c.content, "").in_(_DESCRIBING)
    names = sa.select(sa.func.split_part(few.c.name, "/", 1)).where(few.c.parent_id.is_(None))
    return names.order_by(describes, few.c.id).limit(1).correlate(FileCount).scalar_subquery()


def _parts(session: Session, job_ids: Sequence[UUID]) -> dict[UUID, dict[FileStatus, dict[str, int]]]:
    """Return how many of the problems of each upload are rows of sheets, or pages of documents.

    What is missing of an archive counts as a file.
    """
    if not job_ids:
        return {}
    word = sa.case((_WHOLE.content.in_(PICTURED), "page"), else_="row").label("word")
    query = (
        sa.select(UploadFile.job_id, UploadFile.status, word, sa.func.sum(UploadFile.count))
        .join(_WHOLE, _WHOLE.id == UploadFile.parent_id)
        .where(UploadFile.job_id.in_(job_ids), UploadFile.status.in_(PROBLEMS), UploadFile.entry.is_(None))
        .where(sa.func.coalesce(_WHOLE.content, "") != FileKind.ARCHIVE)
        .group_by(UploadFile.job_id, UploadFile.status, word)
        .order_by(word)
    )
    found: dict[UUID, dict[FileStatus, dict[str, int]]] = {}
    for job_id, status, name, count in session.execute(query):
        found.setdefault(job_id, {}).setdefault(status, {})[name] = count
    return found


def come(session: Session, job_id: UUID) -> int:
    """Return how many files of an upload are no longer to come, of those that its client counts."""
    query = sa.select(sa.func.coalesce(sa.func.sum(FileCount.count), 0))
    return int(session.scalars(query.where(FileCount.job_id == job_id, FileCount.come)).one())


def count_not_kept(session: Session, job_id: UUID) -> int:
    """Return how many rejected files of an upload have to be sent again to be tried again."""
    sent = (UploadFile.job_id == job_id, UploadFile.parent_id.is_(None), UploadFile.file_key.is_(None))
    query = sa.select(sa.func.coalesce(sa.func.sum(UploadFile.count), 0))
    return int(session.scalar(query.where(*sent, UploadFile.status == FileStatus.REJECTED)) or 0)


def _open(session: Session, job_ids: Sequence[UUID]) -> dict[UUID, dict[str, Any]]:
    """Return what the counts of each open upload say besides its outcomes."""
    rows = session.execute(_missing(), {"job_ids": job_ids})
    return {
        job_id: {"open": True, "expected": expected, "to_come": max(0, int(count))} for job_id, expected, count in rows
    }


@cache
def _missing() -> sa.Select[UUID, int, int]:
    come = sa.select(sa.func.coalesce(sa.func.sum(FileCount.count), 0)).where(FileCount.job_id == Upload.id)
    missing = (Upload.expected - come.where(FileCount.come).scalar_subquery()).label("missing")
    is_open = (Upload.id.in_(sa.bindparam("job_ids", expanding=True)), Upload.closed_at.is_(None))
    return sa.select(Upload.id, Upload.expected, missing).where(*is_open)
