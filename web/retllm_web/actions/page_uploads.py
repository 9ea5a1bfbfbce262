"""The last upload of an account, as the page of its collection shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import OVER_JOBS, FileStatus, JobKind, JobState
from retllm.db.jobs import Job
from retllm.db.uploads import UploadFile
from retllm.history.file_counts import FileCounts, file_counts
from retllm.identity.access import collection_for
from retllm.identity.actor import Actor
from retllm.uploads.rest import EarlierRows, Rest, earlier_rows, rest_of
from retllm.uploads.views import OUTCOMES, FileView, UploadState, files_with_problems_first, upload_state

SHOWN_FILES = 20
"""Files of the last upload on the page of its collection."""
_SHOWN_BEFORE = 3
_BEFORE = timedelta(days=1)


@dataclass(frozen=True)
class Rejections:
    """How many files and rows of an upload were rejected."""

    job_id: UUID
    created_at: datetime
    files: FileCounts


@dataclass(frozen=True)
class LastUpload:
    """The newest upload of an account to a collection: its state, and some files, those with problems first.

    ``waits_for`` says how many files came and are to come while it is open; else None. ``before`` are uploads of the
    last day of which something was rejected, the newest first: one upload may follow another by itself.
    """

    job_id: UUID
    job_state: JobState
    state: UploadState
    rest: Rest
    earlier: Sequence[EarlierRows]
    files: Sequence[FileView]
    waits_for: FileCounts | None
    before: Sequence[Rejections]

    @property
    def over(self) -> bool:
        """Whether every file has its outcome."""
        return self.state.processed or self.job_state in OVER_JOBS


def last_upload(session: Session, actor: Actor, collection_id: UUID) -> LastUpload | None:
    """Return the newest upload of ``actor`` to a collection.

    Raises:
        NotFound: no such collection that ``actor`` may see.
    """
    collection_for(session, actor, collection_id)
    theirs = Job.collection_id == collection_id, Job.kind == JobKind.UPLOAD, Job.user_id == actor.id
    job = session.scalar(sa.select(Job).where(*theirs).order_by(Job.id.desc()).limit(1))
    state = upload_state(session, job.id) if job is not None else None
    if job is None or state is None:
        return None
    files = files_with_problems_first(session, job.id, statuses=OUTCOMES, limit=SHOWN_FILES)
    is_open = state.closed_at is None and job.state not in OVER_JOBS
    waits_for = file_counts(session, [job.id]).get(job.id) if is_open else None
    earlier = sa.select(Job.id).where(*theirs, Job.id < job.id, Job.created_at > job.created_at - _BEFORE)
    rest, rows = rest_of(session, job.id, state.counts), earlier_rows(session, job)
    return LastUpload(job.id, job.state, state, rest, rows, files, waits_for, _rejections(session, earlier))


def _rejections(session: Session, jobs: sa.Select[UUID]) -> list[Rejections]:
    rejected = sa.select(UploadFile.id).where(UploadFile.job_id == Job.id, UploadFile.status == FileStatus.REJECTED)
    query = jobs.add_columns(Job.created_at).where(rejected.exists()).order_by(Job.id.desc()).limit(_SHOWN_BEFORE)
    found: dict[UUID, datetime] = dict(iter(session.execute(query)))
    counts = file_counts(session, list(found)) if found else {}
    return [Rejections(job_id, created_at, counts[job_id]) for job_id, created_at in found.items()]
