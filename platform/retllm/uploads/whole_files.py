"""Files of several pictures in an upload: each page or frame becomes an item, and the file is kept whole."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import closing
from typing import Any, BinaryIO
from uuid import UUID

import sqlalchemy as sa

from retllm.db.enums import FileStatus
from retllm.db.uploads import UploadFile
from retllm.errors import MediaRejected, OriginalLost, TooLarge
from retllm.media import records, sources, streams
from retllm.media.ingest import Ingest, keys_of, where_lies
from retllm.media.parts import BrokenPart, RenderedPart, read_parts
from retllm.media.references import suffix_like
from retllm.media.sniffing import FileKind, whole_media_type
from retllm.uploads.processed import Processed
from retllm.uploads.receive import rejection


def split(
    ingest: Ingest, file: UploadFile, stream: BinaryIO, kind: FileKind, sha256: str, check: Callable[[], None]
) -> Processed:
    """Read the parts of a file and store each as it comes, then the whole file.

    Args:
        check: called before each part; what it raises ends the reading.

    Raises:
        MediaRejected, TooLarge: no part can be read; nothing stays stored.
        OriginalLost: the file stays where it lies, and changed; nothing stays stored.
        StorageFull, StackError, OSError: the storage or the decoders can't be used.
    """
    done = _Splitting(ingest, file, sha256)
    try:
        with closing(read_parts(stream, kind, ingest.settings)) as parts:
            for part in parts:
                check()
                done.add(part)
        if not done.readable:
            raise MediaRejected(f"None of its parts can be read; the first one: {done.first_reason}")
        return done.processed(stream)
    except (MediaRejected, TooLarge, OriginalLost):
        done.discard()
        raise


class _Splitting:
    def __init__(self, ingest: Ingest, file: UploadFile, sha256: str) -> None:
        self._ingest = ingest
        self._file = file
        self._sha256 = sha256
        self._parts: list[Processed] = []
        self._left_out: str | None = None
        self._count = 0
        taken = sa.select(UploadFile.id).where(
            UploadFile.parent_id == file.id, UploadFile.entry.is_(None), UploadFile.status != FileStatus.REJECTED
        )
        with ingest.sessions() as session:
            self._known = records.parts_of(session, ingest.collection_id, sha256)
            # of a file that is read again; their items may have been changed or deleted since
            self._taken = set(session.scalars(taken))

    @property
    def readable(self) -> bool:
        return bool(self._taken) or any(part.columns.get("status") is None for part in self._parts)

    @property
    def first_reason(self) -> str:
        return next((str(part.columns["error"]) for part in self._parts), "there is none.")

    def add(self, part: RenderedPart | BrokenPart) -> None:
        """Store a part, unless the collection has it or it was taken before."""
        self._count += 1
        key = sources.part_id(self._file.id, self._count)
        self._left_out = part.left_out or self._left_out
        if key in self._taken:
            return
        which = sources.part_of(part)
        name = sources.part_name(self._file.name, which)
        if isinstance(part, BrokenPart):
            columns = {"name": name, **rejection(MediaRejected(_sentence(part.reason)))}
            self._parts.append(Processed(key, columns))
            return
        self._parts.append(self._stored(key, name, part, which))

    def _stored(self, key: UUID, name: str, part: RenderedPart, which: dict[str, Any]) -> Processed:
        sha256 = sources.part_sha256(self._sha256, which)
        columns: dict[str, Any] = {
            "name": name,
            "content": FileKind.PICTURE,
            "size_bytes": len(part.data),
            "sha256": sha256,
            "remark": part.remark,
        }
        if sha256 in self._known:
            return Processed(key, columns)
        with io.BytesIO(part.data) as picture:
            item = self._ingest.store_inspected(key, name, picture, sha256, part, repeatable=True)
        return Processed(key, columns, {**item, "part": which})

    def processed(self, stream: BinaryIO) -> Processed:
        """Store the whole file if a part is new; return what became of it and of its parts."""
        file = self._file
        columns = {"status": FileStatus.READ, "remark": self._left_out}
        if all(part.item is None for part in self._parts):
            return Processed(file.id, columns, parts=self._parts)
        key, media_type = (
            sources.source_key(file.id) + suffix_like(file.file_key),
            whole_media_type(streams.head(stream)),
        )
        size, storage = streams.length(stream), self._ingest.storage
        if file.file_key is not None:
            storage.copy(file.file_key, key)
        else:
            storage.put(key, stream)
        source = {
            "id": file.id,
            "name": file.name,
            "media_type": media_type,
            "content_sha256": self._sha256,
            "size_bytes": size,
            "file_key": key,
            **where_lies(storage, key),
        }
        return Processed(file.id, columns, source=source, parts=self._parts)

    def discard(self) -> None:
        for part in self._parts:
            if part.item is not None:
                self._ingest.discard(*keys_of(part.item))


def _sentence(reason: str) -> str:
    return reason[:1].upper() + reason[1:].rstrip(".") + "."
