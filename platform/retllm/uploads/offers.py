"""Files that a client is about to send: which of them need not be sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Annotated
from uuid import UUID

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy.orm import Session

from retllm.db.enums import FileStatus, ItemKind, JobKind
from retllm.db.jobs import Job
from retllm.db.tables import Source, new_id
from retllm.db.uploads import UNPACKED, Upload, UploadFile
from retllm.media import records
from retllm.media.file_table import clutter_of
from retllm.media.names import clean_name
from retllm.media.sniffing import FileKind
from retllm.uploads import unsent
from retllm.uploads.expected import has_come
from retllm.uploads.receive import ReceivedFile

MAX_NAME = 4096
"""Characters of a file's name that a client sends."""


class Offer(BaseModel):
    """A file that may be sent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME)]
    size: int = Field(ge=0, le=1 << 50, description="in bytes")
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")] | None = Field(
        default=None,
        description="of the content; a file with neither this nor `slices` is only compared with those of this upload",
    )
    slices: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")] | None = Field(
        default=None,
        description="of a large file without `sha256`: the SHA-256 of the SHA-256 digests (32 bytes each) of its "
        "slices of 4 MiB, one after the other",
    )
    earlier: int = Field(
        default=0,
        ge=0,
        le=1 << 30,
        description="tells files without `sha256` apart: how many with this name and size the sender knows to be here",
    )


class Arrived:
    """The files that an upload has received, to be compared with others."""

    def __init__(self, session: Session, job_id: UUID, names: Iterable[str]) -> None:
        query = sa.select(UploadFile.name, UploadFile.size_bytes, UploadFile.sha256).where(
            UploadFile.job_id == job_id,
            UploadFile.name.in_({*map(clean_name, names)}),
            has_come(),
            ~_is_left_behind(),
        )
        self._contents: set[tuple[str, int, str | None]] = set()
        self._counts: Counter[tuple[str, int]] = Counter()
        for name, size, sha256 in session.execute(query):
            self._contents.add((name, size or 0, sha256))
            self._counts[name, size or 0] += 1

    def has(self, name: str, size: int, sha256: str | None, earlier: int = 0) -> bool:
        """Return whether a file with this cleaned name arrived."""
        if sha256 is None:
            return self._counts[name, size] > earlier
        # what was refused without being stored has no hash
        return not self._contents.isdisjoint({(name, size, sha256), (name, size, None)})


def _is_left_behind() -> sa.ColumnElement[bool]:
    """Return the condition that a file came, but its upload was cancelled before it was processed."""
    cancelled = sa.select(Job.id).where(Job.id == UploadFile.job_id, Job.cancel_requested).exists()
    waits = sa.and_(UploadFile.status == FileStatus.WAITING, cancelled)
    return sa.or_(UploadFile.status == FileStatus.UNPROCESSED, waits)


def arrived(session: Session, job_id: UUID, offers: Sequence[Offer]) -> list[bool]:
    """Return for each file whether it arrived with this upload."""
    found = Arrived(session, job_id, (offer.name for offer in offers))
    return [found.has(clean_name(offer.name), offer.size, offer.sha256, offer.earlier) for offer in offers]


def new_files(session: Session, job_id: UUID, files: Sequence[ReceivedFile]) -> list[ReceivedFile]:
    """Return those of the received files that did not arrive before with an upload, whose job is locked."""
    found = Arrived(session, job_id, (file.name for file in files))
    return [file for file in files if file.sha256 is None or not found.has(file.name, file.size, file.sha256)]


def take_duplicates(session: Session, job: Job, offers: Sequence[Offer]) -> list[bool]:
    """Return for each file whether an upload, whose job is locked, does without its bytes.

    It has them already, or its collection has this picture, which becomes a duplicate of the upload.
    """
    known = arrived(session, job.id, offers)
    contents = [offer.sha256 for offer, here in zip(offers, known, strict=True) if offer.sha256 and not here]
    pictures = records.find_contents(session, job.one_collection, contents)
    duplicates: list[UploadFile] = []
    for number, offer in enumerate(offers):
        item = pictures.get(offer.sha256 or "")
        if known[number] or item is None or item.kind is ItemKind.TEXT or clutter_of(offer.name) is not None:
            continue
        known[number] = True
        duplicates.append(
            UploadFile(
                id=new_id(),
                job_id=job.id,
                name=clean_name(offer.name),
                # the captions of this upload find it
                content=FileKind.PICTURE,
                size_bytes=offer.size,
                sha256=offer.sha256,
                status=FileStatus.DUPLICATE,
                item_id=item.id,
                kind=item.kind,
            )
        )
    unsent.forget(session, job.id, {file.name for file in duplicates})
    session.add_all(duplicates)
    session.execute(sa.update(Upload).where(Upload.id == job.id).values(active_at=sa.func.now()))
    return known


def kept_bytes(session: Session, collection_id: UUID, sha256s: Sequence[str]) -> dict[str, str]:
    """Return the storage keys of bytes with these contents that the collection has, by content.

    They are documents and films whose parts are items, and what uploads to it still keep. An archive that is kept in
    another form is not among them: its bytes have another content.
    """
    if not sha256s:
        return {}
    inside = sa.select(Source.content_sha256, Source.file_key).where(Source.collection_id == collection_id)
    wholes = session.execute(inside.where(Source.content_sha256.in_(sha256s))).all()
    uploads = sa.select(Job.id).where(Job.collection_id == collection_id, Job.kind == JobKind.UPLOAD)
    query = sa.select(UploadFile.sha256, UploadFile.file_key).where(
        UploadFile.job_id.in_(uploads), UploadFile.file_key.not_like(f"%{UNPACKED}"), UploadFile.sha256.in_(sha256s)
    )
    return {sha256: key for sha256, key in [*session.execute(query), *wholes] if sha256 is not None and key is not None}


def wholes_of_size(session: Session, collection_id: UUID, sizes: Collection[int]) -> dict[int, list[str]]:
    """Return the storage keys of documents and films of the collection whose parts are items, by their size."""
    if not sizes:
        return {}
    inside = sa.select(Source.size_bytes, Source.file_key).where(Source.collection_id == collection_id)
    found: dict[int, list[str]] = {}
    for size, key in session.execute(inside.where(Source.size_bytes.in_(sizes)).order_by(Source.id)):
        found.setdefault(size, []).append(key)
    return found
