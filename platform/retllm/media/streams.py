"""Files in passing: measured, hashed and kept aside in chunks, never whole in memory."""

from __future__ import annotations

import codecs
import hashlib
import os
import tempfile
from collections.abc import Iterator
from typing import BinaryIO, cast

from retllm.errors import MediaRejected, TooLarge

CHUNK = 1 << 20
# what a small picture weighs: up to here a copy stays in memory, beyond it goes to a temporary file
IN_MEMORY = 1 << 20


def mebibytes(count: int) -> str:
    """``count`` bytes as a person reads them."""
    return f"{count / (1 << 20):,.1f} MiB" if count >= 1 << 20 else f"{count:,} bytes"


def chunks(stream: BinaryIO, limit: int, setting: str = "RETLLM_MAX_FILE_BYTES") -> Iterator[bytes]:
    """The rest of ``stream`` in chunks of at most 1 MiB.

    Raises:
        TooLarge: more than ``limit`` bytes came.
    """
    count = 0
    while chunk := stream.read(CHUNK):
        count += len(chunk)
        if count > limit:
            raise TooLarge(f"The file is larger than {mebibytes(limit)}, the limit set by {setting}.", limit=limit)
        yield chunk


def digest(stream: BinaryIO, limit: int) -> str:
    """SHA-256 of a whole seekable stream, in hex; the stream is left at its start.

    Raises:
        TooLarge: it holds more than ``limit`` bytes.
    """
    stream.seek(0)
    sha = hashlib.sha256()
    for chunk in chunks(stream, limit):
        sha.update(chunk)
    stream.seek(0)
    return sha.hexdigest()


def spool(stream: BinaryIO, limit: int) -> BinaryIO:
    """A seekable copy of what is left in ``stream``, on disk when it is large; left at its start.

    Raises:
        TooLarge: more than ``limit`` bytes came.
    """
    kept = cast("BinaryIO", tempfile.SpooledTemporaryFile(max_size=IN_MEMORY))  # noqa: SIM115 - handed to the caller
    try:
        for chunk in chunks(stream, limit):
            kept.write(chunk)
        kept.seek(0)
    except BaseException:
        kept.close()
        raise
    return kept


def length(stream: BinaryIO) -> int:
    """Bytes of a seekable stream; it is left at its start."""
    stream.seek(0, os.SEEK_END)
    count = stream.tell()
    stream.seek(0)
    return count


def head(stream: BinaryIO, count: int = 4096) -> bytes:
    """The first bytes of a seekable stream; it is left at its start."""
    stream.seek(0)
    first = stream.read(count)
    stream.seek(0)
    return first


def check_utf8(stream: BinaryIO, limit: int) -> None:
    """Read a seekable stream through as UTF-8 and leave it at its start.

    Raises:
        TooLarge: it holds more than ``limit`` bytes.
        MediaRejected: it is not UTF-8; the message says from which byte on.
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
        at = done - pending + error.start + 1
        raise MediaRejected(f"The file is not UTF-8 (byte {at:,}): save it as UTF-8 and send it again.") from error
    stream.seek(0)
