"""Storage of pictures: a folder or an object store, accessed through fsspec."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, cast

from fsspec.core import url_to_fs

from retllm.errors import NotFound, StackError, StorageFull
from retllm.media import references
from retllm.media.references import Reference, is_reference
from retllm.private import close
from retllm.settings import Settings

CHUNK = 1 << 20


@dataclass(slots=True)
class Storage:
    """Files under one fsspec address, named by keys such as ``items/7f/<id>/original``.

    A key of a reference (:mod:`retllm.media.references`) is read as its original, which has to lie in one of ``roots``,
    folders and prefixes of buckets. Everything else that is done with such a key is done to the reference.

    Each process opens the file system on first use, so that a storage can be created before a fork or sent to a spawned
    child; object store clients survive neither.
    """

    url: str
    roots: tuple[str, ...] = ()
    _opened: tuple[int, Any, str] | None = field(default=None, init=False, repr=False, compare=False)

    def __getstate__(self) -> tuple[str, tuple[str, ...]]:
        return self.url, self.roots

    def __setstate__(self, state: tuple[str, tuple[str, ...]]) -> None:
        self.url, self.roots = state
        self._opened = None

    def put(self, key: str, file: BinaryIO) -> int:
        """Store the rest of ``file`` under ``key``; return the number of bytes.

        The file is read in chunks, written under a temporary name and moved, so that ``key`` never names half a file.

        Raises:
            StorageFull: the storage is full; the incomplete file was removed.
        """
        fs, path = self._locate(key)
        _, temporary = self._locate(f"tmp/{uuid.uuid4().hex}")
        count = 0
        try:
            with fs.open(temporary, "wb") as target:
                while chunk := file.read(CHUNK):
                    target.write(chunk)
                    count += len(chunk)
                if self._is_local:
                    # flush to disk before the row that names this file is committed
                    target.flush()
                    os.fsync(target.fileno())
            if self._is_local:
                _move(Path(temporary), Path(path))
            else:
                # `mv` looks for folders of these names first
                fs.cp_file(temporary, path)
                fs.rm_file(temporary)
        except BaseException as error:
            with contextlib.suppress(OSError):
                fs.rm(temporary)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull from error
            raise
        return count

    def copy(self, source: str, key: str) -> None:
        """Store the file under ``source`` also under ``key``, if possible without moving its bytes.

        Of a reference the original is copied, unless ``key`` is that of a reference too.

        Raises:
            NotFound: there is no file under ``source``.
            OriginalLost, StorageUnavailable: as :meth:`open`.
            StorageFull: the storage is full.
        """
        if is_reference(source) != is_reference(key):
            with self.open(source) as file:
                self.put(key, file)
            return
        fs, path = self._locate(source)
        _, target = self._locate(key)
        try:
            if not self._is_local:
                fs.cp_file(path, target)
                return
            _, temporary = self._locate(f"tmp/{uuid.uuid4().hex}")
            Path(temporary).hardlink_to(path)
            _move(Path(temporary), Path(target))
            # a move onto another name of the same file does nothing
            Path(temporary).unlink(missing_ok=True)
        except FileNotFoundError as error:
            raise NotFound("The stored file is missing.", key=source) from error
        except OSError:  # no hard links on this file system, or too many
            with self.open(source) as file:
                self.put(key, file)

    def open(self, key: str) -> BinaryIO:
        """Open the file under ``key`` for reading, of a reference the original; the caller closes it.

        Raises:
            NotFound: there is no such file.
            OriginalLost: the original of a reference is gone, has another content, or may not be read.
            StorageUnavailable: its place can't be reached.
        """
        if is_reference(key):
            return references.opened(self.reference(key), self.roots)
        return self._open(key)

    def reference(self, key: str) -> Reference:
        """Return the reference that is stored under ``key``.

        Raises:
            NotFound: there is none, or its file is damaged.
        """
        with self._open(key) as file:
            return references.read(file)

    def refer(self, key: str, reference: Reference) -> str:
        """Store a reference under a key that begins with ``key``; return it."""
        key += references.SUFFIX
        self.put(key, io.BytesIO(reference.as_bytes()))
        return key

    def problem(self, key: str) -> str | None:
        """Return why the original of a reference can't be read; None if it can, or if the key is of no reference."""
        try:
            return references.problem(self.reference(key), self.roots) if is_reference(key) else None
        except NotFound as error:
            return error.message

    def _open(self, key: str) -> BinaryIO:
        fs, path = self._locate(key)
        try:
            return cast("BinaryIO", fs.open(path, "rb"))
        except FileNotFoundError as error:
            raise NotFound("The stored file is missing.", key=key) from error

    def exists(self, key: str) -> bool:
        """Return whether a complete file is stored under ``key``."""
        fs, path = self._locate(key)
        return bool(fs.isfile(path))

    def size(self, key: str) -> int:
        """Return the size of the file under ``key`` in bytes, of a reference that of its original.

        Raises:
            NotFound: there is no such file.
        """
        if is_reference(key):
            return self.reference(key).size
        fs, path = self._locate(key)
        try:
            return int(fs.size(path))
        except FileNotFoundError as error:
            raise NotFound("The stored file is missing.", key=key) from error

    def delete(self, key: str) -> None:
        """Delete the file under ``key`` if it exists."""
        fs, path = self._locate(key)
        with contextlib.suppress(FileNotFoundError):
            fs.rm_file(path)
        if self._is_local:
            # remove the folder of the item with its last file
            with contextlib.suppress(OSError):
                Path(path).parent.rmdir()

    def delete_all(self, keys: Sequence[str]) -> None:
        """Delete the files under these keys that exist; a store of objects deletes many in one request."""
        if not self._is_local and keys:
            fs, _ = self._filesystem()
            with contextlib.suppress(FileNotFoundError):
                fs.rm([self._locate(key)[1] for key in keys])
                return
        for key in keys:
            self.delete(key)

    def folders(self, prefix: str) -> list[str]:
        """Return the names of the folders under ``prefix``."""
        return self._names(prefix, "directory")

    def files(self, prefix: str) -> list[str]:
        """Return the names of the files in the folder ``prefix``."""
        return self._names(prefix, "file")

    def _names(self, prefix: str, kind: str) -> list[str]:
        fs, path = self._locate(prefix)
        fs.invalidate_cache(path)
        try:
            found = fs.ls(path, detail=True)
        except FileNotFoundError:
            return []
        return [str(entry["name"]).rstrip("/").rpartition("/")[2] for entry in found if entry["type"] == kind]

    def delete_folder(self, key: str) -> None:
        """Delete a folder with all files in it, if it exists."""
        fs, path = self._locate(key)
        with contextlib.suppress(FileNotFoundError):
            fs.rm(path, recursive=True)

    def sweep(self, age: timedelta, limit: int = 1000) -> int:
        """Delete half-written files older than ``age``, left by killed writers; return the number deleted.

        Args:
            limit: maximum number of files checked in one call.

        Raises:
            OSError, or another exception of the store: the store can't be reached.
        """
        fs, folder = self._locate("tmp")
        fs.invalidate_cache(folder)
        try:
            found = fs.ls(folder, detail=False)
        except FileNotFoundError:
            return 0
        deleted = 0
        for path in found[:limit]:
            # another dispatcher may delete the file, or an upload may complete it, at the same time
            with contextlib.suppress(FileNotFoundError):
                written: datetime = fs.modified(path)
                if datetime.now(UTC) - _aware(written) > age:
                    fs.rm_file(path)
                    deleted += 1
        return deleted

    @property
    def _is_local(self) -> bool:
        fs, _ = self._filesystem()
        return "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)

    def _filesystem(self) -> tuple[Any, str]:
        opened = self._opened
        if opened is None or opened[0] != os.getpid():
            try:
                fs, root = url_to_fs(self.url)
                if "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol):
                    Path(root, "tmp").mkdir(parents=True, exist_ok=True)
            except (ImportError, ValueError, OSError) as error:
                raise StackError(
                    f"The storage {self.url!r} can't be used: {error}. Check RETLLM_STORAGE_URL.", url=self.url
                ) from error
            opened = self._opened = (os.getpid(), fs, str(root).rstrip("/"))
        return opened[1], opened[2]

    def _locate(self, key: str) -> tuple[Any, str]:
        if not key or key.startswith("/") or {"", ".", ".."} & set(key.split("/")):
            raise ValueError(f"not a storage key: {key!r}")
        fs, root = self._filesystem()
        return fs, f"{root}/{key}"


def _move(source: Path, target: Path) -> None:
    """Move a file into a folder that another thread removes if it finds it empty."""
    while True:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            source.replace(target)
        except FileNotFoundError:
            if not source.exists():
                raise
        else:
            return


def _aware(moment: datetime) -> datetime:
    # some stores return UTC as a naive datetime
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def get_storage(settings: Settings) -> Storage:
    """Return the storage at the address in the settings; if it is a folder, it is closed to other accounts."""
    if settings.media_folder is not None:
        close(settings.media_folder, settings)
    return Storage(settings.media_url, settings.import_roots)
