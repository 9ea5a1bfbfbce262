"""What need not be sent: pictures that the collection has, and files that the upload has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import FileStatus, ItemKind
from retllm.db.tables import Job, new_id
from retllm.db.uploads import Upload, UploadFile
from retllm.media import records
from retllm.media.file_table import clutter_of
from retllm.media.names import clean_name
from retllm.media.sniffing import FileKind


@dataclass(frozen=True)
class Announced:
    """A file that may be sent: its name, its size in bytes, and its content."""

    name: str
    size: int
    sha256: str


def find_known(session: Session, job: Job, files: Sequence[Announced]) -> list[bool]:
    """Return for each file whether an open upload, whose job is locked, needs no bytes of it.

    That is so if the upload has received the same file under the same name; and if its collection has the same picture,
    which then becomes a duplicate of the upload, so that its captions find it.
    """
    received = _received(session, job.id, [file.sha256 for file in files])
    pictures = records.find_contents(session, job.collection_id, [file.sha256 for file in files])
    known = []
    for file in files:
        name = clean_name(file.name)
        item = pictures.get(file.sha256)
        here = (name, file.sha256) in received
        if not here and item is not None and item.kind is not ItemKind.TEXT and clutter_of(name) is None:
            session.add(_duplicate(job.id, name, file, item))
            received.add((name, file.sha256))
            here = True
        known.append(here)
    session.execute(sa.update(Upload).where(Upload.id == job.id).values(active_at=sa.func.now()))
    session.flush()
    return known


def _received(session: Session, job_id: UUID, sha256s: Sequence[str]) -> set[tuple[str, str]]:
    # a file that was rejected before it was stored has no hash
    query = sa.select(UploadFile.name, UploadFile.sha256).where(
        UploadFile.job_id == job_id, UploadFile.parent_id.is_(None), UploadFile.sha256.in_(sha256s)
    )
    return {(name, sha256) for name, sha256 in session.execute(query) if sha256 is not None}


def _duplicate(job_id: UUID, name: str, file: Announced, item: records.Known) -> UploadFile:
    return UploadFile(
        id=new_id(),
        job_id=job_id,
        name=name,
        content=FileKind.PICTURE,
        size_bytes=file.size,
        sha256=file.sha256,
        status=FileStatus.DUPLICATE,
        item_id=item.id,
        kind=item.kind,
    )
