"""Gives the pending files of an imported folder to an upload, each in the transaction that notes that it did."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any, BinaryIO, cast
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.imports import ImportedFile
from retllm.db.session import Sessions, run_transaction, transaction
from retllm.db.uploads import Upload
from retllm.errors import RetllmError
from retllm.imports.found import Importable, OpenedWhole
from retllm.imports.scanning import IS_READABLE, Scan, columns, key_of, pending_files
from retllm.media.batches import in_batches
from retllm.media.local_files import Unreadable
from retllm.media.names import clean_name
from retllm.media.outcomes import FileOutcome, IncomingFile, ignored, rejected
from retllm.media.storage import Storage
from retllm.queue.routing import Notification
from retllm.settings import Settings
from retllm.uploads import submit, unsent
from retllm.uploads.receive import ReceivedFile, Stays, receive

# of one transaction
_BATCH_FILES = 32
_BATCH_BYTES = 256 << 20
_NOTED = 1000
# much less than the time after which an upload that gets nothing is closed
_ALIVE_SECONDS = 10.0


@dataclass(frozen=True)
class _Taken:
    row: ImportedFile
    received: ReceivedFile
    columns: dict[str, Any]


@dataclass
class _Batch:
    """Files that are stored and not named by a row yet, and those that can't be read."""

    taken: list[_Taken] = field(default_factory=list)
    unread: list[tuple[ImportedFile, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Import:
    """What a run found in a folder, and where it goes; with ``reference``, originals are not copied."""

    sessions: Sessions
    storage: Storage
    settings: Settings
    folder: Importable
    found: Scan
    reference: bool = False

    def announce(self, job_id: UUID) -> None:
        """Tell an open upload the names of the files that are to come, and the outcomes of what is not taken.

        Raises:
            NotFound, Conflict: as :func:`retllm.uploads.submit.add_files`.
        """
        first = 0
        for rows in self._pending(IS_READABLE, limit=_NOTED):
            names = [row.name for row in rows]
            self._noting(job_id, partial(unsent.expect, job_id=job_id, first=first, names=names))
            first += len(rows)
        for rows in self._pending(~IS_READABLE, limit=_NOTED):
            self._noting(job_id, partial(_tell, job_id=job_id, rows=rows))
        if self.found.clutter:
            left_out = [ReceivedFile.left_out(outcome) for outcome in self.found.clutter]
            run_transaction(self.sessions, partial(submit.add_files, job_id=job_id, files=left_out))

    def send(
        self,
        job_id: UUID,
        notify: Callable[[Sequence[Notification]], object],
        progress: Callable[[int, int], None] = lambda _files, _bytes: None,
    ) -> None:
        """Give the files to an open upload; what arrived before an error stays, and the rest stays pending.

        Args:
            progress: called with the number of files that are done since the last call, and of their bytes.

        Raises:
            NotFound: the upload was deleted.
            Conflict: it takes no more files; ``detail["cancelled"]`` says whether because it was cancelled.
            StorageFull: the storage is full.
        """
        for listed in self._pending(IS_READABLE, limit=_BATCH_FILES):
            for rows in in_batches(listed, attrgetter("size_bytes"), _BATCH_BYTES, _BATCH_FILES):
                notify(self._send_batch(job_id, rows))
                progress(len(rows), sum(row.size_bytes for row in rows))

    def _send_batch(self, job_id: UUID, rows: Sequence[ImportedFile]) -> list[Notification]:
        batch = _Batch()
        try:
            for row in rows:
                self._store(job_id, row, batch)
            return run_transaction(self.sessions, partial(_record, job_id=job_id, batch=batch))
        except (RetllmError, OSError):
            # not after an error of the database: its commit may have succeeded although the answer was lost
            self._discard(taken.received for taken in batch.taken)
            raise

    def _pending(self, *conditions: sa.ColumnElement[bool], limit: int) -> Iterable[Sequence[ImportedFile]]:
        return pending_files(self.sessions, self.found.folder_id, self.found.run, *conditions, limit=limit)

    def _noting(self, job_id: UUID, note: Callable[[Session], None]) -> None:
        def locked(session: Session) -> None:
            submit.lock_open(session, job_id)
            note(session)

        run_transaction(self.sessions, locked)

    def _store(self, job_id: UUID, row: ImportedFile, batch: _Batch) -> None:
        try:
            with self.folder.open(row.path) as opened:
                received = self._receive(job_id, row, opened)
        except Unreadable as error:
            batch.unread.append((row, error.message))
        else:
            batch.taken.append(_Taken(row, received, columns(opened)))

    def _receive(self, job_id: UUID, row: ImportedFile, opened: OpenedWhole) -> ReceivedFile:
        opened.note = _KeptOpen(self.sessions, job_id).note
        incoming = IncomingFile(row.name, cast("BinaryIO", opened))
        stays = Stays(self.folder.place(row.path), opened.facts.version) if self.reference else None
        received = receive(self.storage, job_id, incoming, self.settings, stays=stays)
        try:
            opened.check()
        except Unreadable:
            self._discard([received])
            raise
        return received

    def _discard(self, files: Iterable[ReceivedFile]) -> None:
        for file in files:
            if file.key is not None:
                # what is left is deleted with other files that no row names
                with suppress(OSError):
                    self.storage.delete(file.key)


@dataclass
class _KeptOpen:
    """Keeps an upload from being closed as an idle one while a large file is read."""

    sessions: Sessions
    job_id: UUID
    _last: float = field(default_factory=time.monotonic)

    def note(self, _: int) -> None:
        if time.monotonic() - self._last > _ALIVE_SECONDS:
            active = sa.update(Upload).where(Upload.id == self.job_id).values(active_at=sa.func.now())
            with transaction(self.sessions) as session:
                session.execute(active.execution_options(synchronize_session=False))
            self._last = time.monotonic()


def _record(session: Session, job_id: UUID, batch: _Batch) -> list[Notification]:
    """Add stored files to the upload, and note that they are not pending any more."""
    units = submit.add_files(session, job_id, [taken.received for taken in batch.taken])
    for taken in batch.taken:
        row = taken.row
        values = {
            **taken.columns,
            "pending": False,
            "sha256": taken.received.sha256,
            "file_id": taken.received.id,
            "earlier": [*row.earlier, *([row.file_id] if row.file_id else [])],
        }
        session.execute(sa.update(ImportedFile).where(*key_of(row)).values(**values))
    for row, error in batch.unread:
        session.execute(sa.update(ImportedFile).where(*key_of(row)).values(pending=False, error=error))
    unsent.note(session, job_id, [_rejected(row.name, error) for row, error in batch.unread])
    return units


def _tell(session: Session, job_id: UUID, rows: Sequence[ImportedFile]) -> None:
    """Note in the upload what is not taken, once."""
    unsent.note(session, job_id, [_outcome(row) for row in rows])
    for row in rows:
        session.execute(sa.update(ImportedFile).where(*key_of(row)).values(pending=False))


def _outcome(row: ImportedFile) -> FileOutcome:
    if row.error is not None:
        return _rejected(row.name, row.error)
    return ignored(clean_name(row.name), row.remark or "")


def _rejected(name: str, error: str) -> FileOutcome:
    return rejected(clean_name(name), Unreadable(error))
