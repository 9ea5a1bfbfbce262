"""How many files of uploads have which outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from retllm.db.enums import FileStatus
from retllm.db.uploads import UploadFile
from retllm.errors import NotSent


class FileCounts(BaseModel):
    """The number of files, entries and rows of an upload, also of those that are listed together."""

    model_config = ConfigDict(frozen=True)

    counts: Mapping[FileStatus, int] = Field(description="number of files, entries and rows by status")
    not_sent: int = Field(description="how many of the rejected ones never came")


def file_counts(session: Session, job_ids: Sequence[UUID]) -> dict[UUID, FileCounts]:
    """Return the counts of those jobs that have files, with one query."""
    never_came = sa.func.coalesce(UploadFile.error_code, "") == NotSent.code
    query = (
        sa.select(UploadFile.job_id, UploadFile.status, never_came, sa.func.sum(UploadFile.count))
        .where(UploadFile.job_id.in_(job_ids))
        .group_by(UploadFile.job_id, UploadFile.status, never_came)
    )
    counts: dict[UUID, dict[FileStatus, int]] = {}
    not_sent: dict[UUID, int] = {}
    for job_id, status, missing, count in session.execute(query):
        of_job = counts.setdefault(job_id, {})
        of_job[status] = of_job.get(status, 0) + count
        if missing:
            not_sent[job_id] = count
    return {job_id: FileCounts(counts=found, not_sent=not_sent.get(job_id, 0)) for job_id, found in counts.items()}
