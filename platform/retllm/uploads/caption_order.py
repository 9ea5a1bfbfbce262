"""When the sheets, sidecars and texts of an upload came, by which their captions go before others or after them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import FileStatus, JobKind
from retllm.db.many import one_of
from retllm.db.tables import Job
from retllm.db.uploads import UploadFile
from retllm.errors import MediaRejected, TooLarge
from retllm.media import streams
from retllm.media.records import Came
from retllm.media.sniffing import FileKind, limit_of
from retllm.settings import Settings
from retllm.uploads.archive_files import ArchiveFiles


def hashes(files: Sequence[UploadFile], opener: ArchiveFiles, settings: Settings) -> dict[UUID, str]:
    """Return the SHA-256 of files; those that can't be read are left out. Entries of archives are read for it."""
    found: dict[UUID, str] = {}
    for file in files:
        if file.sha256 is not None:
            found[file.id] = file.sha256
            continue
        try:
            with opener.open(file) as stream:
                found[file.id] = streams.digest(stream, *limit_of(FileKind(file.content or ""), settings))
        except (MediaRejected, TooLarge):
            continue  # it is refused when its captions are read
    return found


def came(session: Session, job: Job, files: Sequence[UploadFile], sha256s: Mapping[UUID, str]) -> dict[UUID, Came]:
    """Return when each file came.

    A file that came to the collection before, with the same name and content, counts as of that time: who uploads a
    folder again adds what is new in it, and does not take back corrections that were made meanwhile.
    """
    archives = _archives_of(session, files)
    sha256s = {**sha256s, **{archive.id: archive.sha256 for archive in archives.values() if archive.sha256}}
    first = _first(session, job.collection_id, set(sha256s.values()))
    found: dict[UUID, Came] = {}
    for file in files:
        archive = archives.get(file.parent_id)
        own = (file.parent_id or file.id, job.id)
        keys = [(archive.name if archive else None, file.name, sha256s.get(file.id))]
        if archive is not None:
            # it may not have been unpacked then
            keys.append((None, archive.name, sha256s.get(archive.id)))
        file_id, job_id = min(own, *(first.get(key, own) for key in keys))
        found[file.id] = Came(file_id, job_id, is_again=job_id != job.id)
    return found


def _archives_of(session: Session, files: Sequence[UploadFile]) -> Mapping[UUID | None, UploadFile]:
    keys = {file.parent_id for file in files if file.parent_id is not None}
    return {row.id: row for row in session.scalars(sa.select(UploadFile).where(one_of(UploadFile.id, keys)))}


# the name of the archive of an entry, its own name, its SHA-256
_Key = tuple[str | None, str, str | None]


def _first(session: Session, collection_id: UUID, sha256s: set[str]) -> dict[_Key, tuple[UUID, UUID]]:
    """Return the received file and the upload with which each file first came to a collection."""
    parent = sa.orm.aliased(UploadFile)
    received = sa.func.coalesce(UploadFile.parent_id, UploadFile.id)
    uploads = sa.select(Job.id).where(Job.collection_id == collection_id, Job.kind == JobKind.UPLOAD)
    query = (
        sa.select(parent.name, UploadFile.name, UploadFile.sha256, received, UploadFile.job_id)
        .outerjoin(parent, parent.id == UploadFile.parent_id)
        .where(
            UploadFile.job_id.in_(uploads),
            one_of(UploadFile.sha256, sha256s),
            UploadFile.status != FileStatus.NOT_SENT,
        )
    )
    first: dict[_Key, tuple[UUID, UUID]] = {}
    for outer, name, sha256, file_id, job_id in session.execute(query):
        key = outer, name, sha256
        first[key] = min(first.get(key, (file_id, job_id)), (file_id, job_id))
    return first
