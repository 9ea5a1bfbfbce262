"""Ingest the files of one upload: several pictures in parallel, few of them in memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import BinaryIO

import structlog

from retllm.db.enums import ItemKind
from retllm.db.tables import new_id
from retllm.errors import MediaRejected, TooLarge
from retllm.logs import carried
from retllm.media import archives, streams
from retllm.media.captioning import Captioner, NamesSeen
from retllm.media.clutter import ClutterCount
from retllm.media.ingest import Ingest
from retllm.media.names import clean_name
from retllm.media.outcomes import FileOutcome, IncomingFile, rejected
from retllm.media.sniffing import FileKind, check_is_picture, sniff
from retllm.media.texts import read_text

log = structlog.get_logger(__name__)

# Pillow releases the GIL while it decodes, scales and encodes; two more threads cover waits for disk and database
THREADS = min(8, (os.cpu_count() or 1) + 2)
# maximum number of pending pictures; each may hold 1 MiB in memory, the rest is on disk
_MAX_PENDING = 2 * THREADS


def add_files(ingest: Ingest, files: Iterable[IncomingFile]) -> list[FileOutcome]:
    """Add the files of one upload: pictures, texts, caption sheets (CSV, JSON Lines), or archives of all of these.

    Captions are applied after all pictures, so the order of the files does not matter. Return one outcome for each
    picture or text, in the order of the files, then one for each row of captions, then those of clutter.
    """
    outcomes = _Batch(ingest).run(files)
    counts: dict[str, int] = {}
    for outcome in outcomes:
        counts[outcome.status] = counts.get(outcome.status, 0) + 1
    log.info("files added", collection_id=str(ingest.collection_id), **counts)
    return outcomes


class _Batch:
    """Dispatches the files of one upload: pictures and texts at once, caption sheets after all pictures."""

    def __init__(self, ingest: Ingest) -> None:
        self._ingest = ingest
        self._outcomes: list[FileOutcome] = []
        self._seen = NamesSeen()
        self._pending: deque[tuple[Future[FileOutcome], BinaryIO | None]] = deque()
        self._hashes: set[str] = set()
        self._clutter = ClutterCount()
        self._sheets: list[tuple[str, FileKind, Callable[[], AbstractContextManager[BinaryIO]]]] = []

    def run(self, files: Iterable[IncomingFile]) -> list[FileOutcome]:
        """Add all files; see :func:`add_files`."""
        with ExitStack() as stack:
            pool = ThreadPoolExecutor(THREADS, thread_name_prefix="ingest")
            # on an error, pending pictures are cancelled, and running ones end before their files are closed
            stack.callback(self._close_pending)
            stack.callback(pool.shutdown, wait=True, cancel_futures=True)
            for file in files:
                self._add(file, pool, stack)
            self._collect(0)
            for sheet in self._sheets:
                self._captions(*sheet)
        return self._outcomes + self._clutter.outcomes()

    def _add(self, file: IncomingFile, pool: ThreadPoolExecutor, stack: ExitStack) -> None:
        if self._clutter.take(file.name):
            return
        name = clean_name(file.name)
        try:
            kind = sniff(streams.head(file.stream), name)
            if kind is not FileKind.ARCHIVE:
                self._dispatch(name, kind, file.stream, pool)
                return
            archive = stack.enter_context(archives.opened(file.stream, self._ingest.settings))
        except (MediaRejected, TooLarge) as error:
            self._append(rejected(name, error))
            return
        if not archive.entries and not archive.ignored:
            self._append(rejected(name, MediaRejected("The archive contains no files.")))
        for entry in archive.entries:
            self._add_entry(archive, entry, pool)
        for outcome in archive.ignored:
            self._append(outcome)

    def _add_entry(self, archive: archives.Archive, entry: archives.Entry, pool: ThreadPoolExecutor) -> None:
        name = entry.name
        unpacked: BinaryIO | None = None
        try:
            unpacked = archive.spooled(entry)
            kind = sniff(streams.head(unpacked), name)
            if kind is FileKind.ARCHIVE:
                raise MediaRejected("An archive inside an archive is not opened: send it separately.")
            self._dispatch(name, kind, unpacked, pool, reopen=partial(archive.spooled, entry))
        except (MediaRejected, TooLarge) as error:
            if unpacked is not None:
                unpacked.close()
            self._append(rejected(name, error))

    def _dispatch(
        self,
        name: str,
        kind: FileKind,
        stream: BinaryIO,
        pool: ThreadPoolExecutor,
        reopen: Callable[[], BinaryIO] | None = None,
    ) -> None:
        """Process one file by its kind. With ``reopen``, close the stream; a caption sheet is reopened later."""
        if kind in (FileKind.PDF, FileKind.FILM):
            check_is_picture(streams.head(stream))
        if kind is FileKind.PICTURE:
            sha256 = streams.digest(stream, self._ingest.settings.max_file_bytes)
            if sha256 in self._hashes:
                # the first of two equal files becomes the item, so it has to be stored first
                self._collect(0)
            self._hashes.add(sha256)
            future = pool.submit(carried(self._ingest.add_hashed), name, stream, sha256, item_id=new_id())
            self._pending.append((future, stream if reopen else None))
            self._collect(_MAX_PENDING)
            return
        if kind is FileKind.TEXT:
            self._append(self._ingest.add_text(read_text(stream, self._ingest.settings), name))
        else:
            self._sheets.append((name, kind, reopen or (lambda: nullcontext(stream))))
        if reopen:
            stream.close()

    def _captions(self, name: str, kind: FileKind, opener: Callable[[], AbstractContextManager[BinaryIO]]) -> None:
        ingest = self._ingest
        captioner = Captioner(ingest.sessions, ingest.settings, ingest.collection_id, self._seen, ingest.add_text)
        try:
            with opener() as stream:
                self._outcomes += captioner.apply(name, stream, kind)
        except (MediaRejected, TooLarge) as error:
            self._outcomes.append(rejected(name, error))

    def _append(self, outcome: FileOutcome) -> None:
        """Append an outcome after those of the pending pictures."""
        done: Future[FileOutcome] = Future()
        done.set_result(outcome)
        self._pending.append((done, None))
        self._collect(_MAX_PENDING)

    def _collect(self, limit: int) -> None:
        """Collect outcomes, in order, until at most ``limit`` are pending."""
        while len(self._pending) > limit:
            future, stream = self._pending[0]
            outcome = future.result()
            self._pending.popleft()
            if stream is not None:
                stream.close()
            self._outcomes.append(outcome)
            if outcome.item_id is not None and outcome.kind is not ItemKind.TEXT:
                self._seen.add(outcome.name, outcome.item_id)
        if not self._pending:
            self._hashes.clear()

    def _close_pending(self) -> None:
        for _, stream in self._pending:
            if stream is not None:
                stream.close()
