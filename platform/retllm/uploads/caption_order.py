"""When the sheets, sidecars and texts of an upload came, by which their captions go before others or after them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from retllm.db.enums import FileStatus, ItemKind, JobKind
from retllm.db.jobs import Job
from retllm.db.many import one_of
from retllm.db.uploads import UploadFile
from retllm.errors import MediaRejected, PictureNotSent, TooLarge
from retllm.media import streams
from retllm.media.names import base_name
from retllm.media.records import Came
from retllm.media.sniffing import FileKind, limit_of
from retllm.settings import Settings
from retllm.uploads.archive_files import ArchiveFiles

# made once: an alias copies all columns
_PARENT = aliased(UploadFile)


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


def came(
    session: Session, job: Job, files: Sequence[UploadFile], sha256s: Mapping[UUID, str]
) -> dict[UUID, tuple[Came, Mapping[UUID, Came]]]:
    """Return when each file came, and the items that it captioned as a sidecar before, the first ones first, and when.

    What came to the collection before counts as of that time: who uploads a folder again, as it is or packed, adds what
    is new in it, and does not take back corrections that were made meanwhile. A sheet is told by its content and the
    last part of its name, a sidecar by these and its item, and what was not processed then by its whole name.
    """
    archives = _archives_of(session, files)
    sha256s = {**sha256s, **{archive.id: archive.sha256 for archive in archives.values() if archive.sha256}}
    before = _before(session, job, set(sha256s.values()))
    found: dict[UUID, tuple[Came, Mapping[UUID, Came]]] = {}
    for file in files:
        archive = archives.get(file.parent_id)
        own = Came(file.parent_id or file.id, job.id)
        sha256 = sha256s.get(file.id)
        same = [
            before.whole.get((archive.name if archive else None, file.name, sha256)),
            before.sheets.get((base_name(file.name), sha256)),
            # it may not have been unpacked then
            before.archives.get(sha256s.get(archive.id)) if archive else None,
        ]
        first = min((own, *filter(None, same)), key=lambda each: each.file_id)
        found[file.id] = first, before.sidecars.get((base_name(file.name), sha256), {})
    return found


def _archives_of(session: Session, files: Sequence[UploadFile]) -> Mapping[UUID | None, UploadFile]:
    keys = {file.parent_id for file in files if file.parent_id is not None}
    return {row.id: row for row in session.scalars(sa.select(UploadFile).where(one_of(UploadFile.id, keys)))}


@dataclass(slots=True)
class _Before:
    """When files first came to a collection, by their SHA-256 and what else tells them.

    Attributes:
        whole: with the names of their archives and their own; those that captioned items are not among them.
        sheets, sidecars: with the last parts of their names, of earlier and later uploads only, in which equal files
            have nothing to do with each other.
    """

    whole: dict[tuple[str | None, str, str | None], Came] = field(default_factory=dict)
    archives: dict[str | None, Came] = field(default_factory=dict)
    sheets: dict[tuple[str, str | None], Came] = field(default_factory=dict)
    sidecars: dict[tuple[str, str | None], dict[UUID, Came]] = field(default_factory=dict)


def _before(session: Session, job: Job, sha256s: set[str]) -> _Before:
    """Return when files of these contents first came to the collection of an upload."""
    uploads = sa.select(Job.id).where(Job.collection_id == job.collection_id, Job.kind == JobKind.UPLOAD)
    received = sa.func.coalesce(UploadFile.parent_id, UploadFile.id)
    told = (UploadFile.content, UploadFile.status, UploadFile.kind, UploadFile.item_id)
    query = (
        sa.select(_PARENT.name, UploadFile.name, UploadFile.sha256, received, UploadFile.job_id, *told)
        .outerjoin(_PARENT, _PARENT.id == UploadFile.parent_id)
        .where(
            UploadFile.job_id.in_(uploads),
            one_of(UploadFile.sha256, sha256s),
            sa.or_(UploadFile.status != FileStatus.NOT_SENT, UploadFile.error_code == PictureNotSent.code),
        )
        .order_by(received)
    )
    before = _Before()
    for outer, name, sha256, file_id, job_id, content, status, kind, item_id in session.execute(query):
        is_other = job_id != job.id
        time = Came(file_id, job_id, is_other)
        key = base_name(name), sha256
        if item_id is not None and kind is not ItemKind.TEXT:
            if is_other:
                before.sidecars.setdefault(key, {}).setdefault(item_id, time)
            continue
        before.whole.setdefault((outer, name, sha256), time)
        if content == FileKind.ARCHIVE:
            before.archives.setdefault(sha256, time)
        elif is_other and (content == FileKind.CSV or status is FileStatus.READ):
            before.sheets.setdefault(key, time)
    return before
