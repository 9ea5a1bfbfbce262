"""Ingest the files of one upload: several pictures in parallel, few of them in memory."""

from __future__ import annotations

import os
import zipfile
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, cast
from uuid import UUID

import structlog

from retllm.db.tables import new_id
from retllm.errors import MediaRejected, TooLarge
from retllm.logs import carried
from retllm.media import archives, streams
from retllm.media.captioning import Applied, Captioner, Document, Located, NamesSeen
from retllm.media.ingest import Ingest
from retllm.media.names import clean_name
from retllm.media.outcomes import FileOutcome, IncomingFile, rejected
from retllm.media.sniffing import FileKind, sniff

log = structlog.get_logger(__name__)

# Pillow releases the GIL while it decodes, scales and encodes; two more threads cover waits for disk and database
THREADS = min(8, (os.cpu_count() or 1) + 2)
# maximum number of pending pictures; each may hold 1 MiB in memory, the rest is on disk
_MAX_PENDING = 2 * THREADS


def add_files(ingest: Ingest, files: Iterable[IncomingFile], *, texts: bool = False) -> list[FileOutcome]:
    """Add the files of one upload: pictures, texts, sheets and sidecars with captions, or ZIPs of all of these.

    Captions are applied after all pictures, so the order of the files does not matter; with ``texts``, rows without a
    picture become texts. Return one outcome for each file, in the order of the files, then one for each row of a sheet.
    """
    outcomes = _Batch(ingest).run(files, texts=texts)
    counts: dict[str, int] = {}
    for outcome in outcomes:
        counts[outcome.status] = counts.get(outcome.status, 0) + 1
    log.info("files added", collection_id=str(ingest.collection_id), **counts)
    return outcomes


@dataclass(frozen=True, slots=True)
class _Pending:
    """What becomes an outcome: at once for a picture, at the end for a document."""

    result: Future[FileOutcome | Document]
    located: Located
    is_picture: bool = False
    stream: BinaryIO | None = None
    """The stream to close when it is done."""


class _Batch:
    """Dispatches the files of one upload: pictures at once, all that may say something of them after all pictures."""

    def __init__(self, ingest: Ingest) -> None:
        self._ingest = ingest
        self._outcomes: list[FileOutcome | Document] = []
        self._seen = NamesSeen()
        self._pending: deque[_Pending] = deque()
        self._hashes: set[str] = set()

    def run(self, files: Iterable[IncomingFile], *, texts: bool) -> list[FileOutcome]:
        """Add all files; see :func:`add_files`."""
        with ExitStack() as stack:
            pool = ThreadPoolExecutor(THREADS, thread_name_prefix="ingest")
            # on an error, pending pictures are cancelled, and running ones end before their files are closed
            stack.callback(self._close_pending)
            stack.callback(pool.shutdown, wait=True, cancel_futures=True)
            for file in files:
                self._add(file, pool, stack)
            self._collect(0)
            return self._with_documents(texts=texts)

    def _with_documents(self, *, texts: bool) -> list[FileOutcome]:
        """Apply the documents, and put their outcomes into their places; those of rows go to the end."""
        documents = [outcome for outcome in self._outcomes if isinstance(outcome, Document)]
        captioner = Captioner(self._ingest, self._seen, texts=texts)
        applied = {result.document: result for result in captioner.apply(documents)}
        whole = [
            applied[outcome].outcomes[0] if isinstance(outcome, Document) else outcome
            for outcome in self._outcomes
            if not isinstance(outcome, Document) or not applied[outcome].is_sheet
        ]
        return whole + [row for document in documents if applied[document].is_sheet for row in _rows(applied[document])]

    def _add(self, file: IncomingFile, pool: ThreadPoolExecutor, stack: ExitStack) -> None:
        located = Located(clean_name(file.name))
        try:
            kind = sniff(streams.head(file.stream), located.name)
            if kind is not FileKind.ARCHIVE:
                self._dispatch(located, kind, file.stream, pool)
                return
            archive = stack.enter_context(archives.opened(file.stream, self._ingest.settings))
        except (MediaRejected, TooLarge) as error:
            self._append(located, rejected(located.name, error))
            return
        if not archive.entries:
            self._append(located, rejected(located.name, MediaRejected("The ZIP contains no files.")))
        archive_id = new_id()
        for entry in archive.entries:
            self._add_entry(archive, entry, archive_id, pool)

    def _add_entry(
        self, archive: archives.Archive, entry: zipfile.ZipInfo, archive_id: UUID, pool: ThreadPoolExecutor
    ) -> None:
        located = Located(archives.entry_name(entry), archive_id)
        unpacked: BinaryIO | None = None
        try:
            unpacked = archive.spooled(entry)
            kind = sniff(streams.head(unpacked), located.name)
            if kind is FileKind.ARCHIVE:
                raise MediaRejected("A ZIP inside a ZIP is not opened: send it separately.")
            self._dispatch(located, kind, unpacked, pool, reopen=partial(archive.spooled, entry))
        except (MediaRejected, TooLarge) as error:
            if unpacked is not None:
                unpacked.close()
            self._append(located, rejected(located.name, error))

    def _dispatch(
        self,
        located: Located,
        kind: FileKind,
        stream: BinaryIO,
        pool: ThreadPoolExecutor,
        reopen: Callable[[], BinaryIO] | None = None,
    ) -> None:
        """Process one file by its kind. With ``reopen``, close the stream; a document is reopened later."""
        if kind is FileKind.PICTURE:
            sha256 = streams.digest(stream, self._ingest.settings.max_file_bytes)
            if sha256 in self._hashes:
                # the first of two equal files becomes the item, so it has to be stored first
                self._collect(0)
            self._hashes.add(sha256)
            future = pool.submit(carried(self._ingest.add_hashed), located.name, stream, sha256, item_id=new_id())
            result = cast("Future[FileOutcome | Document]", future)
            self._pending.append(_Pending(result, located, True, stream if reopen else None))
            self._collect(_MAX_PENDING)
            return
        self._append(located, Document(located, kind, reopen or (lambda: nullcontext(stream))))
        if reopen:
            stream.close()

    def _append(self, located: Located, outcome: FileOutcome | Document) -> None:
        """Append an outcome after those of the pending pictures."""
        done: Future[FileOutcome | Document] = Future()
        done.set_result(outcome)
        self._pending.append(_Pending(done, located))
        self._collect(_MAX_PENDING)

    def _collect(self, limit: int) -> None:
        """Collect outcomes, in order, until at most ``limit`` are pending."""
        while len(self._pending) > limit:
            pending = self._pending[0]
            outcome = pending.result.result()
            self._pending.popleft()
            if pending.stream is not None:
                pending.stream.close()
            self._outcomes.append(outcome)
            if pending.is_picture and isinstance(outcome, FileOutcome):
                self._seen.add(pending.located, outcome.item_id)
        if not self._pending:
            self._hashes.clear()

    def _close_pending(self) -> None:
        for pending in self._pending:
            if pending.stream is not None:
                pending.stream.close()


def _rows(applied: Applied) -> list[FileOutcome]:
    """Return the outcomes of a sheet's rows; the first one has the remark about the whole sheet."""
    first, *others = applied.outcomes
    remarks = [remark for remark in (applied.remark, first.remark) if remark]
    return [first.model_copy(update={"remark": " ".join(remarks) or None}), *others]
