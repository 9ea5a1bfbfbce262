"""Large files of uploads, which come in parts: each is stored as it arrives, and the last one makes the file whole.

A store of objects can't append, so each part has a key of its own. The rows of the parts say how much arrived.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, BinaryIO, cast
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.jobs import Job
from retllm.db.session import Sessions, run_transaction
from retllm.db.tables import new_id
from retllm.db.uploads import FilePart, LargeFile, Upload, UploadFile
from retllm.errors import Conflict, Incomplete, MediaRejected, NotFound, NotSent, TooLarge
from retllm.media import streams
from retllm.media.clutter import ClutterCount
from retllm.media.file_table import clutter_of
from retllm.media.fingerprints import Fingerprint
from retllm.media.names import clean_name, raw_end
from retllm.media.outcomes import IncomingFile, not_sent
from retllm.media.storage import Storage
from retllm.settings import Settings
from retllm.uploads import unsent
from retllm.uploads.receive import ReceivedFile, kind_of, missing, receive

KEPT = timedelta(days=1)
"""The parts of a file that did not arrive whole are kept for so long after the last one, for the next try."""
MAX_PARTS = 10_000
_SWEPT_AT_ONCE = 100
# what tells the kind of a file
_HEAD = 4096


@dataclass(frozen=True)
class Part:
    """A part that is stored, and where it lies in the file, in bytes."""

    start: int
    size: int
    key: str


@dataclass(frozen=True)
class Announced:
    """A large file that is to come; each hash finds what arrived of the same file before."""

    name: str
    size: int
    sha256: str | None = None
    fingerprint: str | None = None


@dataclass(frozen=True)
class Arrived:
    """A large file and its parts so far."""

    id: UUID
    name: str
    size: int
    sha256: str | None
    file_id: UUID | None
    parts: Sequence[Part]
    raw_end: str | None = None
    fingerprint: str | None = None

    @property
    def offset(self) -> int:
        """Return how many bytes arrived."""
        if self.file_id is not None:
            return self.size
        return sum(part.size for part in self.parts)


def begin(session: Session, job: Job, file: Announced, settings: Settings) -> Arrived:
    """Announce a large file of an open upload, whose job is locked.

    If a hash of it is given, parts of the same file are used that came with this upload, or with one that is closed.

    Raises:
        TooLarge: no file may be so large.
    """
    limit = settings.max_request_bytes
    if file.size > limit:
        raise TooLarge(f"The file is larger than {streams.exact_size(limit)}, the limit of this server.", limit=limit)
    clean = clean_name(file.name)
    large = _earlier(session, job, clean, file)
    if large is None:
        hashes = {"sha256": file.sha256, "fingerprint": file.fingerprint}
        large = LargeFile(id=new_id(), collection_id=job.one_collection, size_bytes=file.size, **hashes)
        session.add(large)
    large.job_id, large.name, large.raw_end, large.active_at = job.id, clean, raw_end(file.name), sa.func.now()
    session.flush()
    return _arrived(session, large)


def _earlier(session: Session, job: Job, name: str, file: Announced) -> LargeFile | None:
    hashes = ((LargeFile.sha256, file.sha256), (LargeFile.fingerprint, file.fingerprint))
    equal = [column == value for column, value in hashes if value is not None]
    if not equal:
        return None
    # two files of one upload may have the same content
    same = sa.and_(LargeFile.job_id == job.id, LargeFile.name == name)
    closed = sa.select(Upload.id).where(Upload.id == LargeFile.job_id, Upload.closed_at.is_not(None)).exists()
    query = (
        sa.select(LargeFile)
        .where(
            LargeFile.collection_id == job.one_collection,
            LargeFile.size_bytes == file.size,
            sa.or_(*equal),
            LargeFile.file_id.is_(None),
            sa.or_(same, LargeFile.job_id.is_(None), closed),
        )
        .order_by(LargeFile.active_at.desc())
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    return session.scalar(query)


def find(session: Session, job_id: UUID, large_file_id: UUID, *, lock: bool = False) -> Arrived:
    """Return a large file of an upload, with its parts.

    Raises:
        NotFound: there is none with this key, or it was abandoned.
    """
    return _arrived(session, _large(session, job_id, large_file_id, lock=lock))


def _large(session: Session, job_id: UUID, large_file_id: UUID, *, lock: bool) -> LargeFile:
    query = sa.select(LargeFile).where(LargeFile.id == large_file_id, LargeFile.job_id == job_id)
    large = session.scalar(query.with_for_update() if lock else query)
    if large is None:
        raise NotFound("There is no such file in this upload.")
    return large


def _arrived(session: Session, large: LargeFile) -> Arrived:
    rows = session.scalars(sa.select(FilePart).filter_by(large_file_id=large.id).order_by(FilePart.start))
    parts = [Part(row.start, row.size_bytes, row.file_key) for row in rows]
    of_file = (large.id, large.name, large.size_bytes, large.sha256, large.file_id)
    return Arrived(*of_file, parts, large.raw_end, large.fingerprint)


def check_next(arrived: Arrived, offset: int) -> None:
    """Check that a part at ``offset`` is the next one.

    Raises:
        Conflict: another part is; ``offset`` of its detail says which.
        TooLarge: the file came in too many parts.
    """
    if offset != arrived.offset:
        raise Conflict(f"The next part begins at byte {arrived.offset:,}.", offset=arrived.offset)
    if len(arrived.parts) >= MAX_PARTS:
        raise TooLarge(f"A file may come in {MAX_PARTS:,} parts: send it again in larger ones.")


def store_part(storage: Storage, arrived: Arrived, stream: BinaryIO) -> Part:
    """Store what ``stream`` has as the next part of a file; no more is read than the file may still have.

    Raises:
        StorageFull: the storage is full.
    """
    key = f"{folder_of(arrived.id)}/{new_id()}"
    rest = _Limited(stream, arrived.size - arrived.offset)
    return Part(arrived.offset, storage.put(key, cast("BinaryIO", rest)), key)


def folder_of(large_file_id: UUID) -> str:
    """Return the folder of a file's parts, among which may be some whose request was killed, and that no row names."""
    return f"parts/{large_file_id}"


class _Limited:
    def __init__(self, stream: BinaryIO, limit: int) -> None:
        self._stream, self._left = stream, limit

    def read(self, count: int) -> bytes:
        data = self._stream.read(min(count, self._left))
        self._left -= len(data)
        return data


def record_part(session: Session, job_id: UUID, arrived: Arrived, part: Part) -> None:
    """Name a stored part of a file of an upload, whose job is locked.

    Raises:
        NotFound: the file was abandoned.
        Conflict: another request was faster.
    """
    large = _large(session, job_id, arrived.id, lock=True)
    check_next(_arrived(session, large), part.start)
    session.add(FilePart(large_file_id=large.id, start=part.start, size_bytes=part.size, file_key=part.key))
    _active(session, large, job_id)


def _active(session: Session, large: LargeFile, job_id: UUID) -> None:
    large.active_at = sa.func.now()
    session.execute(sa.update(Upload).where(Upload.id == job_id).values(active_at=sa.func.now()))
    session.flush()


def refused(storage: Storage, arrived: Arrived, part: Part, settings: Settings) -> ReceivedFile | None:
    """Return a file that is refused whatever follows its first part; None of others, and of clutter."""
    if part.start or part.size < _HEAD or clutter_of(arrived.name) is not None:
        return None
    with storage.open(part.key) as stream:
        head = streams.head(stream, _HEAD)
    try:
        kind_of(head, arrived.name, arrived.size, settings)
    except (MediaRejected, TooLarge) as error:
        return ReceivedFile(new_id(), arrived.name, arrived.size, error=error)
    return None


def put_together(
    storage: Storage, job_id: UUID, arrived: Arrived, parts: Sequence[Part], settings: Settings
) -> ReceivedFile:
    """Store the whole file that the parts make.

    Raises:
        StorageFull: the storage is full.
    """
    clutter = ClutterCount()
    if clutter.take(arrived.name):
        return ReceivedFile.left_out(clutter.outcomes()[0])
    with closing(_Whole(storage, parts)) as whole:
        file, fingerprint = IncomingFile(arrived.name, cast("BinaryIO", whole)), Fingerprint()
        received = receive(storage, job_id, file, settings, fingerprint if arrived.fingerprint else None)
    received = replace(received, raw_end=arrived.raw_end)
    same = arrived.sha256 in (None, received.sha256) and arrived.fingerprint in (None, fingerprint.hexdigest())
    if received.key is None or same:
        return received
    storage.delete(received.key)
    error = MediaRejected("What arrived is not the file that was announced, its SHA-256 differs: send it again.")
    return ReceivedFile(received.id, received.name, received.size, received.content, received.sha256, error=error)


class _Whole(io.RawIOBase):
    """A seekable stream of the parts of a file, one after the other."""

    def __init__(self, storage: Storage, parts: Sequence[Part]) -> None:
        super().__init__()
        self._storage, self._parts = storage, parts
        self._at = 0
        self._size = sum(part.size for part in parts)
        self._opened: tuple[Part, BinaryIO] | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        part = next((one for one in self._parts if one.start <= self._at < one.start + one.size), None)
        if part is None:
            return 0
        data = self._at_part(part).read(min(len(buffer), part.start + part.size - self._at))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _at_part(self, part: Part) -> BinaryIO:
        if self._opened is None or self._opened[0] is not part:
            self._end()
            self._opened = part, self._storage.open(part.key)
        stream = self._opened[1]
        stream.seek(self._at - part.start)
        return stream

    def _end(self) -> None:
        if self._opened is not None:
            self._opened[1].close()

    def close(self) -> None:
        self._end()
        super().close()


def record_whole(session: Session, job_id: UUID, arrived: Arrived, start: int, file_id: UUID) -> None:
    """Note which file of the upload a large file has become; its parts are named no longer.

    Raises:
        NotFound: it was abandoned.
        Conflict: another request was faster.
    """
    large = _large(session, job_id, arrived.id, lock=True)
    check_next(_arrived(session, large), start)
    large.file_id = file_id
    session.execute(sa.delete(FilePart).filter_by(large_file_id=large.id))
    _active(session, large, job_id)


def abandon(session: Session, job_id: UUID, large_file_id: UUID) -> None:
    """Forget a large file; the caller deletes its folder after the commit.

    Raises:
        NotFound: there is none with this key.
    """
    large = _large(session, job_id, large_file_id, lock=True)
    session.execute(sa.delete(LargeFile).where(LargeFile.id == large.id))


def reject_incomplete(session: Session, job_id: UUID) -> None:
    """Say of each file of an upload that did not arrive whole how much of it did, unless its sender said why."""
    named = sa.select(UploadFile.id).where(
        UploadFile.job_id == job_id,
        UploadFile.name == LargeFile.name,
        sa.func.coalesce(UploadFile.error_code, "") != NotSent.code,
    )
    query = sa.select(LargeFile).where(LargeFile.job_id == job_id, LargeFile.file_id.is_(None), ~named.exists())
    for large in session.scalars(query.order_by(LargeFile.id)).all():
        offset, whole = _arrived(session, large).offset, streams.size(large.size_bytes)
        if not offset:
            told = NotSent(f"Not sent: nothing of its {whole} arrived. Send the file again.")
            unsent.note(session, job_id, [not_sent(large.name, told)])
            continue
        kept = "within a day, and only the rest is sent" if large.sha256 or large.fingerprint else "from its beginning"
        error = Incomplete(
            f"Not sent whole: only {streams.size(offset)} of {whole} arrived, so the file was not taken. Send it "
            f"again {kept}."
        )
        unsent.forget(session, job_id, [large.name])
        columns = {"size_bytes": large.size_bytes, "sha256": large.sha256, **missing(error)}
        session.add(UploadFile(id=new_id(), job_id=job_id, name=large.name, **columns))
    session.flush()


def expire(sessions: Sessions, storage: Storage, kept: timedelta = KEPT) -> int:
    """Delete large files of deleted uploads, and of closed ones after ``kept``, with all parts; return how many."""
    done = 0
    while run_transaction(sessions, lambda session: _expire_one(session, storage, kept)):
        done += 1
        if done >= _SWEPT_AT_ONCE:
            break
    return done


def _expire_one(session: Session, storage: Storage, kept: timedelta) -> bool:
    closed = sa.select(Upload.id).where(Upload.id == LargeFile.job_id, Upload.closed_at.is_not(None)).exists()
    old = sa.and_(closed, LargeFile.active_at < sa.func.now() - kept)
    query = sa.select(LargeFile).where(sa.or_(LargeFile.job_id.is_(None), old)).limit(1)
    # while the row is locked, no upload goes on with these parts
    large = session.scalar(query.with_for_update(skip_locked=True))
    if large is None:
        return False
    storage.delete_folder(folder_of(large.id))
    session.execute(sa.delete(LargeFile).where(LargeFile.id == large.id))
    return True
