"""What is imported: a folder or a prefix of a bucket, the files that are found in it, and a file that is open."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import BinaryIO, Protocol, Self, cast

from retllm.errors import OriginalLost, StorageUnavailable
from retllm.media.clutter import ClutterCount
from retllm.media.local_files import OpenedFile, changed, unreadable
from retllm.media.originals import Original
from retllm.media.references import Place


@dataclass(frozen=True, slots=True)
class Listed:
    """A file that was found, or what can't be taken and why (``error``), or is left out (``remark``).

    Attributes:
        path: from what is imported on; that of a folder ends with a slash.
        name: what an upload of the folder would call it.
        changed_ns: the time of its last change, in nanoseconds since 1970.
        etag: the version of an object in a bucket.
        is_folder: whether it is a folder that can't be read, so that nobody knows what is in it.
    """

    path: bytes
    name: str
    size: int = 0
    changed_ns: int = 0
    etag: str | None = None
    error: str | None = None
    remark: str | None = None
    is_folder: bool = False


class OpenedWhole(OpenedFile):
    """A file that is open for reading, and what it was when it was opened."""

    def __init__(self, file: Original, etag: str | None = None) -> None:
        super().__init__(cast("BinaryIO", io.BufferedReader(file)), file.facts.size)
        self.facts, self.etag = file.facts, etag
        self._file = file

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return self.facts.size

    def read(self, count: int = -1) -> bytes:
        """Return at most ``count`` bytes, none at the end.

        Raises:
            Unreadable: the file changed, or can't be read.
            StorageUnavailable: the bucket can't be reached.
        """
        try:
            return super().read(count)
        except (OriginalLost, StorageUnavailable) as error:
            if self.etag is None and isinstance(error.__cause__, OSError):
                # a bad place on a disk is the matter of one file
                raise unreadable(error.__cause__) from error
            if isinstance(error, OriginalLost):
                raise changed() from error
            raise

    def check(self) -> None:
        """Check that nobody has written the file since it was opened.

        Raises:
            Unreadable: somebody has.
        """
        if not self._file.is_unchanged():
            raise changed()


class Importable(Protocol):
    """A folder or a prefix of a bucket that may be imported; for people it is written as its address."""

    @property
    def address(self) -> bytes:
        """What tells it from others."""

    def __enter__(self) -> Self:
        """Keep it open."""

    def __exit__(self, *_: object) -> None:
        """Close it."""

    def place(self, path: bytes) -> Place:
        """Return where a file of it lies."""

    def files(self, clutter: ClutterCount) -> Iterator[Listed]:
        """Yield the files below it, and what can't be taken, and count the clutter."""

    def open(self, path: bytes) -> AbstractContextManager[OpenedWhole]:
        """Open a file for reading.

        Raises:
            Unreadable: it can't be opened.
        """

    def problem(self, path: bytes) -> str | None:
        """Return why a file can't be opened; None if it can."""
