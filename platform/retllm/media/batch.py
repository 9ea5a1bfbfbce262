"""One upload of many files: several pictures at a time, few of them in memory."""

from __future__ import annotations

import os
import zipfile
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
from retllm.media.ingest import Ingest
from retllm.media.names import clean_name
from retllm.media.outcomes import FileOutcome, IncomingFile, rejected
from retllm.media.sniffing import FileKind, sniff
from retllm.media.texts import read_text

log = structlog.get_logger(__name__)

# Pillow lets go of the interpreter's lock while it decodes, scales and encodes; two more wait for disk and database
THREADS = min(8, (os.cpu_count() or 1) + 2)
# pictures that are unpacked and wait; each may hold 1 MiB in memory, more is on disk
_WAITING = 2 * THREADS


def add_files(ingest: Ingest, files: Iterable[IncomingFile]) -> list[FileOutcome]:
    """Take the files of one upload: pictures, texts, sheets of captions (CSV, JSON Lines), or ZIPs of all of these.

    Pictures go first, so that captions find them whatever their order. One outcome for each picture or text, in the
    order of the files; then one for each row of captions.
    """
    outcomes = _Batch(ingest).run(files)
    counts: dict[str, int] = {}
    for outcome in outcomes:
        counts[outcome.status] = counts.get(outcome.status, 0) + 1
    log.info("files taken in", collection_id=str(ingest.collection_id), **counts)
    return outcomes


class _Batch:
    """Sorts the files of one upload: pictures and texts at once, sheets of captions when all pictures are in."""

    def __init__(self, ingest: Ingest) -> None:
        self._ingest = ingest
        self._outcomes: list[FileOutcome] = []
        self._seen = NamesSeen()
        self._waiting: deque[tuple[Future[FileOutcome], BinaryIO | None]] = deque()
        self._hashes: set[str] = set()
        self._sheets: list[tuple[str, FileKind, Callable[[], AbstractContextManager[BinaryIO]]]] = []

    def run(self, files: Iterable[IncomingFile]) -> list[FileOutcome]:
        """Take all files; see :func:`add_files`."""
        with ExitStack() as stack:
            pool = ThreadPoolExecutor(THREADS, thread_name_prefix="ingest")
            # on an error what was not begun is dropped; what was begun ends before its file is closed
            stack.callback(self._close_waiting)
            stack.callback(pool.shutdown, wait=True, cancel_futures=True)
            for file in files:
                self._take(file, pool, stack)
            self._collect(0)
            for sheet in self._sheets:
                self._captions(*sheet)
        return self._outcomes

    def _take(self, file: IncomingFile, pool: ThreadPoolExecutor, stack: ExitStack) -> None:
        name = clean_name(file.name)
        try:
            kind = sniff(streams.head(file.stream), name)
            if kind is not FileKind.ARCHIVE:
                self._sort(name, kind, file.stream, pool)
                return
            archive = stack.enter_context(archives.opened(file.stream, self._ingest.settings))
        except (MediaRejected, TooLarge) as error:
            self._settle(rejected(name, error))
            return
        if not archive.entries:
            self._settle(rejected(name, MediaRejected("The ZIP holds no file.")))
        for entry in archive.entries:
            self._take_entry(archive, entry, pool)

    def _take_entry(self, archive: archives.Archive, entry: zipfile.ZipInfo, pool: ThreadPoolExecutor) -> None:
        name = archives.entry_name(entry)
        unpacked: BinaryIO | None = None
        try:
            unpacked = archive.spooled(entry)
            kind = sniff(streams.head(unpacked), name)
            if kind is FileKind.ARCHIVE:
                raise MediaRejected("A ZIP inside a ZIP is not opened: send it by itself.")
            self._sort(name, kind, unpacked, pool, again=partial(archive.spooled, entry))
        except (MediaRejected, TooLarge) as error:
            if unpacked is not None:
                unpacked.close()
            self._settle(rejected(name, error))

    def _sort(
        self,
        name: str,
        kind: FileKind,
        stream: BinaryIO,
        pool: ThreadPoolExecutor,
        again: Callable[[], BinaryIO] | None = None,
    ) -> None:
        """Hand one file on. With ``again`` the stream is closed here, and opened anew where it has to wait."""
        if kind is FileKind.PICTURE:
            sha256 = streams.digest(stream, self._ingest.settings.max_file_bytes)
            if sha256 in self._hashes:
                # of two equal files the first is the item, so it has to be in
                self._collect(0)
            self._hashes.add(sha256)
            future = pool.submit(carried(self._ingest.add_hashed), name, stream, sha256, item_id=new_id())
            self._waiting.append((future, stream if again else None))
            self._collect(_WAITING)
            return
        if kind is FileKind.TEXT:
            self._settle(self._ingest.add_text(read_text(stream, self._ingest.settings), name))
        else:
            self._sheets.append((name, kind, again or (lambda: nullcontext(stream))))
        if again:
            stream.close()

    def _captions(self, name: str, kind: FileKind, opener: Callable[[], AbstractContextManager[BinaryIO]]) -> None:
        ingest = self._ingest
        captioner = Captioner(ingest.sessions, ingest.settings, ingest.collection_id, self._seen, ingest.add_text)
        try:
            with opener() as stream:
                self._outcomes += captioner.apply(name, stream, kind)
        except (MediaRejected, TooLarge) as error:
            self._outcomes.append(rejected(name, error))

    def _settle(self, outcome: FileOutcome) -> None:
        """Put an outcome in its place in the row, behind the pictures that are still under way."""
        done: Future[FileOutcome] = Future()
        done.set_result(outcome)
        self._waiting.append((done, None))
        self._collect(_WAITING)

    def _collect(self, leave: int) -> None:
        """Take outcomes in, in order, until ``leave`` are under way."""
        while len(self._waiting) > leave:
            future, stream = self._waiting[0]
            outcome = future.result()
            self._waiting.popleft()
            if stream is not None:
                stream.close()
            self._outcomes.append(outcome)
            if outcome.item_id is not None and outcome.kind is not ItemKind.TEXT:
                self._seen.add(outcome.name, outcome.item_id)
        if not self._waiting:
            self._hashes.clear()

    def _close_waiting(self) -> None:
        for _, stream in self._waiting:
            if stream is not None:
                stream.close()
