"""Files on this machine that are read while other programs may change them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import BinaryIO

from retllm.errors import Unsendable
from retllm.media import special_files


class Unreadable(Unsendable):
    """The file can't be read."""


class OpenedFile:
    """The bytes of a file that was found; reading fails if they change in number meanwhile."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self._size = size
        self.problem: Unreadable | None = None
        """Why reading failed, if it did."""
        self.note: Callable[[int], None] = lambda _: None
        """Called with the number of bytes of each read."""

    def read(self, count: int = -1) -> bytes:
        """Return at most ``count`` bytes, none at the end.

        Raises:
            Unreadable: the file has become shorter or longer, or can't be read.
        """
        at = self._stream.tell()
        try:
            data = self._stream.read(count)
            if (not data and count and at != self._size) or at + len(data) > self._size:
                raise changed()
        except OSError as error:
            self.problem = unreadable(error)
            raise self.problem from error
        except Unreadable as error:
            self.problem = error
            raise
        self.note(len(data))
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position; the end is where it was when the file was found."""
        if whence == os.SEEK_END:
            return self._stream.seek(self._size + offset)
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._stream.tell()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def __enter__(self) -> OpenedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def unreadable(error: OSError, what: str = "file", *, link: bool = False) -> Unreadable:
    """Return why a file, folder or link can't be read, for people."""
    if link and isinstance(error, FileNotFoundError | NotADirectoryError):
        return Unreadable(special_files.LINK_TO_NOTHING)
    if error.errno == errno.ELOOP:
        return Unreadable(special_files.LINK_ROUND)
    return Unreadable(f"The {what} can't be read ({error.strerror or error}): correct that and send it again.")


def changed() -> Unreadable:
    """Return the error for a file that another program writes."""
    return Unreadable("The file changed while it was read: send it again when it is complete.")
