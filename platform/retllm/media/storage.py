"""Where pictures are kept: a folder or an object store, by fsspec."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, cast

from fsspec.core import url_to_fs

from retllm.errors import NotFound, StackError, StorageFull
from retllm.settings import Settings

CHUNK = 1 << 20


@dataclass(slots=True)
class Storage:
    """Files under one fsspec address, named by keys such as ``items/7f/<id>/original``.

    The file system is opened at the first use in each process, so that a storage may be made before a fork and
    sent to a spawned child; object store clients survive neither.
    """

    url: str
    _opened: tuple[int, Any, str] | None = field(default=None, init=False, repr=False, compare=False)

    def __getstate__(self) -> str:
        return self.url

    def __setstate__(self, url: str) -> None:
        self.url = url
        self._opened = None

    def put(self, key: str, file: BinaryIO) -> int:
        """Store what is left to read in ``file`` under ``key``; the number of bytes.

        Read in chunks. Written under a passing name and moved, so that ``key`` never names half a file.

        Raises:
            StorageFull: there is no room for it; nothing is left of it.
        """
        fs, path = self._at(key)
        _, passing = self._at(f"tmp/{uuid.uuid4().hex}")
        count = 0
        try:
            with fs.open(passing, "wb") as target:
                while chunk := file.read(CHUNK):
                    target.write(chunk)
                    count += len(chunk)
                if self._is_local:
                    # the row that will name this file is flushed to the disk, so its bytes have to be there first
                    target.flush()
                    os.fsync(target.fileno())
            if self._is_local:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                Path(passing).replace(path)
            else:
                fs.mv(passing, path)
        except BaseException as error:
            with contextlib.suppress(OSError):
                fs.rm(passing)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull from error
            raise
        return count

    def open(self, key: str) -> BinaryIO:
        """The file stored under ``key``, to read; the caller closes it.

        Raises:
            NotFound: there is no such file.
        """
        fs, path = self._at(key)
        try:
            return cast("BinaryIO", fs.open(path, "rb"))
        except FileNotFoundError as error:
            raise NotFound("The stored file is gone.", key=key) from error

    def exists(self, key: str) -> bool:
        """Whether a whole file is stored under ``key``."""
        fs, path = self._at(key)
        return bool(fs.isfile(path))

    def size(self, key: str) -> int:
        """Bytes of the file under ``key``.

        Raises:
            NotFound: there is no such file.
        """
        fs, path = self._at(key)
        try:
            return int(fs.size(path))
        except FileNotFoundError as error:
            raise NotFound("The stored file is gone.", key=key) from error

    def delete(self, key: str) -> None:
        """Remove the file under ``key``; a missing one is fine."""
        fs, path = self._at(key)
        with contextlib.suppress(FileNotFoundError):
            fs.rm_file(path)
        if self._is_local:
            # the folder of an item goes with its last file
            with contextlib.suppress(OSError):
                Path(path).parent.rmdir()

    def sweep(self, age: timedelta, most: int = 1000) -> int:
        """Remove files that are half written and older than ``age``: whoever wrote them was killed. How many went.

        Args:
            most: no more than this many are looked at; the rest waits for the next time.

        Raises:
            OSError, or what else the store raises: it can't be reached.
        """
        fs, folder = self._at("tmp")
        fs.invalidate_cache(folder)
        try:
            found = fs.ls(folder, detail=False)
        except FileNotFoundError:
            return 0
        gone = 0
        for path in found[:most]:
            # another dispatcher may sweep as well, and an upload may end meanwhile
            with contextlib.suppress(FileNotFoundError):
                written: datetime = fs.modified(path)
                if datetime.now(UTC) - _aware(written) > age:
                    fs.rm_file(path)
                    gone += 1
        return gone

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

    def _at(self, key: str) -> tuple[Any, str]:
        if not key or key.startswith("/") or {"", ".", ".."} & set(key.split("/")):
            raise ValueError(f"not a storage key: {key!r}")
        fs, root = self._filesystem()
        return fs, f"{root}/{key}"


def _aware(moment: datetime) -> datetime:
    # some stores tell UTC without saying so
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def get_storage(settings: Settings) -> Storage:
    """The storage that the settings name."""
    return Storage(settings.media_url)
