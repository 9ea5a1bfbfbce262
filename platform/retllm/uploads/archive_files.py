"""Archives of an upload: list their entries as files of the upload, and open each entry when it is processed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, BinaryIO
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import FileStatus, Stage
from retllm.db.jobs import Job
from retllm.db.many import insert_many
from retllm.db.tables import new_id
from retllm.db.uploads import UNPACKED, UploadFile
from retllm.errors import MediaRejected, NotFound, TooLarge
from retllm.media import archives, streams
from retllm.media.ingest import delete_files
from retllm.media.names import clean_name, quoted, raw_end
from retllm.media.sheets.batches import batches
from retllm.queue import lifecycle
from retllm.queue.claim import complete
from retllm.queue.routing import Notification
from retllm.queue.worker import LeasedUnit, WorkerContext
from retllm.uploads.receive import rejection

UNIT_ENTRIES = 64
"""Entries in one unit; each unit reads the directory of the archive once."""
# all rows of one INSERT have the same columns
_WITHOUT_REASON: dict[str, Any] = dict.fromkeys(("error_code", "error", "remark"))


def unpack(context: WorkerContext, held: LeasedUnit, files: Sequence[UploadFile]) -> list[Notification]:
    """Make a row for each entry of archives, and units for them.

    A compressed tar is unpacked once here, and kept without compression from then on.

    Raises:
        StaleClaim, JobCancelled: while an archive is listed, or at the end.
    """
    found: list[dict[str, Any]] = []
    payloads: list[dict[str, Any]] = []
    outcomes: dict[UUID, dict[str, Any]] = {}
    for file in files:
        try:
            entries, outcomes[file.id] = _listed(context, held, file)
            found += entries
            ids = [str(entry["id"]) for entry in entries if entry["status"] is FileStatus.WAITING]
            payloads += [{"items": some} for some in batches(ids, UNIT_ENTRIES)]
        except (MediaRejected, TooLarge) as error:
            outcomes[file.id] = rejection(error)

    def write(session: Session, job: Job) -> list[Notification]:
        if found:
            session.execute(insert_many(UploadFile, found))
        for file_id, columns in outcomes.items():
            session.execute(sa.update(UploadFile).where(UploadFile.id == file_id).values(**columns))
        return lifecycle.append_units(session, job, Stage.MEDIA, payloads)

    notified = complete(context.sessions, held.claim, write)
    delete_files(context.storage, [_key(file) for file in files if "file_key" in outcomes[file.id]])
    return notified


def _listed(context: WorkerContext, held: LeasedUnit, file: UploadFile) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the rows of an archive's entries, and the columns of the archive."""
    with ExitStack() as stack:
        key = _key(file)
        stream = stack.enter_context(context.storage.open(key))
        archive = stack.enter_context(archives.opened(stream, context.settings, held.lease.check))
        if not archive.entries and not archive.ignored:
            raise MediaRejected("The archive contains no files.")
        columns: dict[str, Any] = {"status": FileStatus.READ, "remark": archive.remark}
        if archive.rewritten is not None:
            columns["file_key"] = key + UNPACKED
            # other attempts store the same bytes
            context.storage.put(columns["file_key"], streams.watched(archive.rewritten(), held.lease.check))
        return _rows(file, archive), columns


def _rows(file: UploadFile, archive: archives.Archive) -> list[dict[str, Any]]:
    base = {"job_id": file.job_id, "parent_id": file.id}
    entries = [
        {
            **base,
            "id": new_id(),
            "entry": entry.place,
            "name": entry.name,
            "raw_end": raw_end(entry.given) if entry.name == clean_name(entry.given) else None,
            "size_bytes": entry.file_size,
            "status": FileStatus.WAITING,
            **_WITHOUT_REASON,
            "count": 1,
        }
        for entry in archive.entries
    ]
    clutter = [
        {
            **base,
            "id": new_id(),
            "entry": None,
            "name": outcome.name,
            "raw_end": None,
            "size_bytes": None,
            "status": FileStatus.IGNORED,
            **_WITHOUT_REASON,
            "remark": outcome.remark,
            "count": outcome.count,
        }
        for outcome in archive.ignored
    ]
    if archive.lost is None:
        return entries + clutter
    nothing = {"entry": None, "raw_end": None, "size_bytes": None}
    lost = {"id": new_id(), "name": f"{file.name}, the rest", **_WITHOUT_REASON, **rejection(archive.lost), "count": 1}
    return [*entries, *clutter, {**base, **nothing, **lost}]


class ArchiveFiles:
    """Opens files of an upload: stored ones, and entries of archives, whose directory is read once."""

    def __init__(self, context: WorkerContext, stack: ExitStack, check: Callable[[], None]) -> None:
        self._context = context
        self._check = check
        self._stack = stack
        # entries share the stream of their archive
        self._lock = threading.Lock()
        self._archives: dict[UUID, archives.Archive] = {}

    def open(self, file: UploadFile) -> BinaryIO:
        """Open a file for reading, seekable; the caller closes it.

        Raises:
            MediaRejected, TooLarge: an entry can't be unpacked.
            NotFound: the received bytes are gone.
            StaleClaim, JobCancelled: while the archive is read.
        """
        if file.parent_id is None or file.entry is None:
            return self._context.storage.open(_key(file))
        with self._lock:
            archive = self._archive(file.parent_id)
            return archive.spooled(archive.entry(file.entry))

    def _archive(self, archive_id: UUID) -> archives.Archive:
        if archive_id not in self._archives:
            with self._context.sessions() as session:
                file = session.get(UploadFile, archive_id)
            if file is None:
                raise NotFound("The upload was deleted.")
            stream = self._stack.enter_context(self._context.storage.open(_key(file)))
            opened = archives.opened(stream, self._context.settings, self._check)
            self._archives[archive_id] = self._stack.enter_context(opened)
        return self._archives[archive_id]


def _key(file: UploadFile) -> str:
    if file.file_key is None:
        raise NotFound(f"The uploaded file {quoted(file.name)} is no longer kept: upload it again.")
    return file.file_key
