"""Receives one file: its bytes go to the storage, and its kind is told by its first bytes. Nothing is decoded here."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol
from uuid import UUID

from retllm.db.enums import FileStatus
from retllm.db.tables import new_id
from retllm.errors import MediaRejected, RetllmError, TooLarge
from retllm.media import streams
from retllm.media.fingerprints import Fingerprint
from retllm.media.names import clean_name, one_line, raw_end
from retllm.media.outcomes import FileOutcome, IncomingFile
from retllm.media.references import Place, Reference
from retllm.media.sniffing import PICTURED, FileKind, limit_of, sniff
from retllm.media.storage import Storage
from retllm.settings import Settings


@dataclass(frozen=True)
class ReceivedFile:
    """A file that was stored; or, without a key, one that was rejected (``error``) or ``ignored``, and why."""

    id: UUID
    name: str
    size: int
    content: FileKind | None = None
    sha256: str | None = None
    key: str | None = None
    error: RetllmError | None = None
    ignored: str | None = None
    count: int = 1
    raw_end: str | None = None

    @classmethod
    def left_out(cls, outcome: FileOutcome) -> ReceivedFile:
        """Return the clutter that ``outcome`` stands for."""
        return cls(new_id(), outcome.name, 0, ignored=outcome.remark, count=outcome.count)

    def columns(self) -> dict[str, Any]:
        """Return the columns of its row in ``upload_files``."""
        columns: dict[str, Any] = {
            "id": self.id,
            "name": self.name,
            "raw_end": self.raw_end,
            "content": self.content,
            "size_bytes": self.size,
            "sha256": self.sha256,
            "file_key": self.key,
            "status": FileStatus.WAITING,
            "count": self.count,
        }
        if self.ignored is not None:
            return columns | {"status": FileStatus.IGNORED, "remark": self.ignored}
        return columns if self.error is None else columns | rejection(self.error)


def rejection(error: RetllmError) -> dict[str, Any]:
    """Return the columns of a file that was rejected with ``error``."""
    return {"status": FileStatus.REJECTED, "error_code": error.code, "error": one_line(error.message)}


def missing(error: RetllmError) -> dict[str, Any]:
    """Return the columns of a file that did not come, or not whole."""
    return {**rejection(error), "status": FileStatus.NOT_SENT}


@dataclass(frozen=True, slots=True)
class Stays:
    """A file that stays where it lies; ``version`` is what it is while it is read."""

    place: Place
    version: str


def receive(
    storage: Storage,
    job_id: UUID,
    file: IncomingFile,
    settings: Settings,
    fingerprint: Fingerprint | None = None,
    stays: Stays | None = None,
) -> ReceivedFile:
    """Store a file of an upload under a key of its own; ``fingerprint`` gets the bytes that are stored.

    Args:
        stays: store a reference to the file instead, if it is a picture, document or film; of others nothing has to
            be kept once they were read.

    Raises:
        StorageFull: the storage is full.
    """
    file_id, name, size = new_id(), clean_name(file.name), streams.length(file.stream)
    try:
        content = kind_of(streams.head(file.stream), name, size, settings)
    except (MediaRejected, TooLarge) as error:
        return ReceivedFile(file_id, name, size, error=error)
    key = f"{folder_of_upload(job_id)}/{file_id}"
    sha256 = hashlib.sha256()
    hashed = _Hashed(file.stream, [sha256, fingerprint] if fingerprint else [sha256])
    if stays is None or content not in PICTURED:
        storage.put(key, hashed)  # type: ignore[arg-type]  # `put` only reads
    else:
        while hashed.read(streams.CHUNK):
            pass
        key = storage.refer(key, Reference.to(stays.place, size, stays.version, sha256.hexdigest()))
    return ReceivedFile(file_id, name, size, content, sha256.hexdigest(), key, raw_end=raw_end(file.name))


def kind_of(head: bytes, name: str, size: int, settings: Settings) -> FileKind:
    """Return the kind of a file of so many bytes by its first ones and its name.

    Raises:
        MediaRejected: files of this kind are not accepted.
        TooLarge: it has more bytes than its kind may have.
    """
    content = sniff(head, name)
    limit, setting = limit_of(content, settings)
    if size > limit:
        raise TooLarge(
            f"The file is larger than {streams.exact_size(limit)}, the limit set by {setting}, and is not kept: "
            "raise the limit and send it again.",
            limit=limit,
        )
    return content


def folder_of_upload(job_id: UUID) -> str:
    """Return the folder of the received bytes of an upload."""
    return f"uploads/{job_id}"


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...


class _Hashed:
    """A stream that adds what is read from it to hashes."""

    def __init__(self, stream: BinaryIO, hashes: Sequence[_Hash]) -> None:
        self._stream, self._hashes = stream, hashes

    def read(self, count: int = -1) -> bytes:
        data = self._stream.read(count)
        for one in self._hashes:
            one.update(data)
        return data
