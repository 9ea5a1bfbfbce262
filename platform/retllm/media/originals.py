"""Files that lie outside of the storage: read where they are, checked at every read, and never written."""

from __future__ import annotations

import errno
import io
import os
import stat
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from retllm.errors import OriginalLost, RetllmError, StorageUnavailable

log = structlog.get_logger(__name__)

MISSING = "The original is missing: there is no file any more where it lay."
CHANGED = "The original changed: the file where it lay has another content now."
NO_PERMISSION = "The original can't be read: let the administrator give the platform the right to read it."
_AWAY = "The place where the original lies can't be reached at the moment: try again."

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
"""How a folder is opened that may not be a link."""
# a pipe that has taken the place of a file does not block
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a file was when it was opened.

    Attributes:
        changed_ns: the time of its last change, in nanoseconds since 1970.
        version: differs after a change: times of a local file, the ETag of an object.
    """

    size: int
    changed_ns: int
    version: str


class Original(io.RawIOBase):
    """An open file outside of the storage, seekable; reading fails once it is not the file that was opened.

    Reading raises OriginalLost if it changed or is gone, and StorageUnavailable if its place can't be reached.
    """

    def __init__(self, facts: Facts) -> None:
        super().__init__()
        self.facts = facts
        self._at = 0

    def readable(self) -> bool:
        """Return true."""
        return True

    def seekable(self) -> bool:
        """Return true."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.facts.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer; return the number of bytes, 0 at the end."""
        view = memoryview(buffer)[: max(0, self.facts.size - self._at)]
        if not view:
            return 0
        try:
            count = self._fill(view.cast("B"))
        except Exception as error:  # each kind of store raises other errors
            raise failed(error) from error
        if not count:
            raise OriginalLost(CHANGED)
        self._at += count
        return count

    def is_unchanged(self) -> bool:
        """Return whether the file that is open is still what it was; of an object every read has asked that."""
        return True

    @abstractmethod
    def _fill(self, view: memoryview) -> int:
        """Read from the present position on; return the number of bytes."""


class LocalFile(Original):
    """An open file of this machine."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        super().__init__(_facts(os.fstat(handle)))

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._handle

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            os.close(self._handle)
        super().close()

    def _fill(self, view: memoryview) -> int:
        count = os.preadv(self._handle, [view], self._at)
        # after it, so that bytes which were written meanwhile are given to nobody
        if not self.is_unchanged():
            raise OriginalLost(CHANGED)
        return count

    def is_unchanged(self) -> bool:
        """Return whether the file that is open is still what it was."""
        return _facts(os.fstat(self._handle)) == self.facts


def _facts(found: os.stat_result) -> Facts:
    return Facts(found.st_size, found.st_mtime_ns, f"{found.st_mtime_ns} {found.st_ctime_ns}")


def open_within(folder: int, parts: Sequence[bytes]) -> LocalFile:
    """Open a file below an open folder, whose descriptor is closed; no part of its path may be a link.

    Raises:
        OSError: it can't be opened.
        OriginalLost: it is no file.
    """
    *folders, last = parts
    handle = descend(folder, folders)
    try:
        file = os.open(last, _FILE, dir_fd=handle)
    finally:
        os.close(handle)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OriginalLost(MISSING)
    return LocalFile(file)


def descend(begin: int, parts: Sequence[bytes]) -> int:
    """Return the descriptor of a folder below an open one, which is closed; no part may be a link.

    Raises:
        OSError: a folder can't be opened.
    """
    handle = begin
    for part in parts:
        try:
            inner = os.open(part, FOLDER, dir_fd=handle)
        finally:
            os.close(handle)
        handle = inner
    return handle


def failed(error: Exception) -> RetllmError:
    """Return for people why an original can't be read, without where it lies."""
    if isinstance(error, RetllmError):
        return error
    if isinstance(error, FileNotFoundError) or (isinstance(error, OSError) and error.errno in _GONE):
        return OriginalLost(MISSING)
    if isinstance(error, PermissionError):
        return OriginalLost(NO_PERMISSION)
    log.warning("the place of an original can't be reached", error=repr(error))
    return StorageUnavailable(_AWAY)
