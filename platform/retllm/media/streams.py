"""Measure, hash and copy streams in chunks, without loading a whole file into memory."""

from __future__ import annotations

import codecs
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import BinaryIO, Protocol, cast

from retllm.errors import MediaRejected, TooLarge

CHUNK = 1 << 20
_UNIT = 1000
# about the size of a small picture: a copy up to this size stays in memory, a larger one goes to a temporary file
IN_MEMORY = 1 << 20


class Readable(Protocol):
    """A stream that is read from its start to its end."""

    def read(self, count: int, /) -> bytes:
        """Return at most ``count`` bytes, none at the end."""


class Watched:
    """A seekable stream that calls ``check`` before it is read; what that raises ends the reading."""

    def __init__(self, stream: BinaryIO, check: Callable[[], None]) -> None:
        self._stream = stream
        self._check = check
        self.seek = stream.seek
        self.tell = stream.tell

    def read(self, count: int = -1, /) -> bytes:
        """Return at most ``count`` bytes, none at the end."""
        self._check()
        return self._stream.read(count)


def watched(stream: BinaryIO, check: Callable[[], None]) -> BinaryIO:
    """Return the stream such that ``check`` is called before it is read; what that raises ends the reading."""
    return cast("BinaryIO", Watched(stream, check))


def size(count: int) -> str:
    """Return a number of bytes in the largest fitting unit, a power of 1000."""
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < _UNIT or unit == "GB":
            break
        value /= _UNIT
    return f"{int(value)} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"


def exact_size(count: int) -> str:
    """Return the same of a limit, with its bytes."""
    return f"{size(count)} ({count:,} bytes)" if count >= _UNIT else size(count)


def chunks(stream: Readable, limit: int, setting: str = "RETLLM_MAX_FILE_BYTES") -> Iterator[bytes]:
    """Yield the rest of ``stream`` in chunks of at most 1 MiB.

    Raises:
        TooLarge: the stream has more than ``limit`` bytes.
    """
    count = 0
    while chunk := stream.read(CHUNK):
        count += len(chunk)
        if count > limit:
            raise TooLarge(f"The file is larger than {exact_size(limit)}, the limit set by {setting}.", limit=limit)
        yield chunk


def digest(stream: BinaryIO, limit: int, setting: str = "RETLLM_MAX_FILE_BYTES") -> str:
    """Return the SHA-256 of a whole seekable stream in hex, and rewind the stream.

    Raises:
        TooLarge: the stream has more than ``limit`` bytes.
    """
    stream.seek(0)
    sha = hashlib.sha256()
    for chunk in chunks(stream, limit, setting):
        sha.update(chunk)
    stream.seek(0)
    return sha.hexdigest()


def spool(stream: Readable, limit: int, setting: str = "RETLLM_MAX_FILE_BYTES") -> BinaryIO:
    """Copy the rest of ``stream`` to a seekable file, positioned at its start; a large one is on disk.

    Raises:
        TooLarge: the stream has more than ``limit`` bytes.
    """
    copy = cast("BinaryIO", tempfile.SpooledTemporaryFile(max_size=IN_MEMORY))  # noqa: SIM115 - the caller closes it
    try:
        for chunk in chunks(stream, limit, setting):
            copy.write(chunk)
        copy.seek(0)
    except BaseException:
        copy.close()
        raise
    return copy


@contextmanager
def read_only(stream: BinaryIO) -> Iterator[int]:
    """Yield a descriptor for reading the file in ``stream`` (seekable) from its start, with a position of its own.

    A stream that is no local file is copied to a temporary one.
    """
    with ExitStack() as stack:
        stream.seek(0)
        try:
            source = stream.fileno()
        except (AttributeError, OSError):
            copy = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(stream, copy, CHUNK)
            copy.flush()
            source = copy.fileno()
        descriptor = os.open(f"/dev/fd/{source}", os.O_RDONLY)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def length(stream: BinaryIO) -> int:
    """Return the length of a seekable stream in bytes, and rewind it."""
    stream.seek(0, os.SEEK_END)
    count = stream.tell()
    stream.seek(0)
    return count


def head(stream: BinaryIO, count: int = 4096) -> bytes:
    """Return the first bytes of a seekable stream, and rewind it."""
    stream.seek(0)
    first = stream.read(count)
    stream.seek(0)
    return first


def check_utf8(stream: BinaryIO, limit: int) -> None:
    """Check that a whole seekable stream is UTF-8, and rewind it.

    Raises:
        TooLarge: the stream has more than ``limit`` bytes.
        MediaRejected: it is not UTF-8; the message names the first wrong byte.
    """
    stream.seek(0)
    decoder = codecs.getincrementaldecoder("utf-8")()
    done = 0
    try:
        for chunk in chunks(stream, limit):
            pending = len(decoder.getstate()[0])
            decoder.decode(chunk)
            done += len(chunk)
        pending = len(decoder.getstate()[0])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        position = done - pending + error.start + 1
        raise MediaRejected(
            f"The file is not UTF-8 (byte {position:,}): save it as UTF-8 and send it again."
        ) from error
    stream.seek(0)
