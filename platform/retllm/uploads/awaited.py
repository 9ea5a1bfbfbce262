"""Files that other uploads to a collection are still bringing: announced, on their way, or not processed yet."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from retllm.db.enums import FileStatus
from retllm.db.jobs import Job
from retllm.db.uploads import LargeFile, Upload, UploadFile
from retllm.media.file_table import FileRole, role_of
from retllm.media.sheets.located import Located
from retllm.media.sniffing import FileKind
from retllm.uploads.expected import still_expected

# made once: an alias copies all columns
_ARCHIVE = aliased(UploadFile)


@dataclass(frozen=True, slots=True)
class Awaited:
    """Names of files that other uploads are bringing, and of the archives among them, whose entries are not known yet.

    An entry has two names: as unpacked beside its archive, and in a folder of that one's name.
    """

    names: list[str]
    archives: list[str]


def awaited_files(session: Session, job: Job) -> Awaited:
    """Return the files that uploads other than this job are bringing to its collection."""
    others = (
        sa.select(Job.id)
        .join(Upload, Upload.id == Job.id)
        .where(Job.collection_id == job.collection_id, Job.id != job.id, Job.finished_at.is_(None))
    )
    are_open = others.where(Upload.closed_at.is_(None))
    on_their_way = sa.select(LargeFile.name).where(LargeFile.job_id.in_(are_open), LargeFile.file_id.is_(None))
    to_come = {*session.scalars(still_expected(are_open)), *session.scalars(on_their_way)}
    waits = (
        sa.select(UploadFile.content, UploadFile.name, UploadFile.parent_id, sa.func.coalesce(_ARCHIVE.name, ""))
        .outerjoin(_ARCHIVE, _ARCHIVE.id == UploadFile.parent_id)
        .where(UploadFile.job_id.in_(others), UploadFile.status == FileStatus.WAITING)
    )
    waiting = [(content, Located(name, key, outer)) for content, name, key, outer in session.execute(waits)]
    archives = {name for name in to_come if role_of(name) is FileRole.ARCHIVE}
    archives |= {one.name for content, one in waiting if content == FileKind.ARCHIVE}
    names = to_come | {name for _, one in waiting for name in (one.name, one.unpacked_name)}
    return Awaited(sorted(names), sorted(archives))
