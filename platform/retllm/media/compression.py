"""Unpack files that are compressed as a whole, as a stream: gzip, bzip2 and xz."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, BinaryIO, cast

_STEP = 1 << 16
_GZIP, _BZIP2, _XZ = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0"
SIGNATURES = (_GZIP, _BZIP2, _XZ)
# the largest dictionary of xz -9 has 64 MiB
_XZ_MEMORY = 96 << 20


def unpacked(stream: BinaryIO, head: bytes) -> Iterator[bytes]:
    """Yield the unpacked bytes of a stream that begins with one of ``SIGNATURES``, as ``head`` does.

    Raises:
        EOFError: its end is missing; what came before is sound.
        OSError, zlib.error, lzma.LZMAError: it is damaged.
    """
    if head.startswith(_GZIP):
        return _members(stream, _Inflater, _GZIP)
    if head.startswith(_XZ):
        # not LZMAFile, which takes as much memory as the file asks for
        return _members(stream, partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, memlimit=_XZ_MEMORY), _XZ)
    return _bzip2(stream)


def _bzip2(stream: BinaryIO) -> Iterator[bytes]:
    with bz2.BZ2File(cast("IO[bytes]", stream)) as reader:
        # what comes before an error is not lost
        while data := reader.read1(_STEP):
            yield data


class _Inflater:
    """Reads gzip in the way of ``lzma.LZMADecompressor``."""

    def __init__(self) -> None:
        self._reader = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._reader.eof

    @property
    def unused_data(self) -> bytes:
        return self._reader.unused_data

    def decompress(self, data: bytes, most: int) -> bytes:
        made = self._reader.decompress(self._reader.unconsumed_tail + data, most)
        # the output may have been held back
        self.needs_input = not self._reader.unconsumed_tail and len(made) < most
        return made


def _members(
    stream: BinaryIO, begin: Callable[[], _Inflater | lzma.LZMADecompressor], signature: bytes
) -> Iterator[bytes]:
    """Yield the unpacked bytes of all compressed streams, which parallel programs write one after the other.

    Zeros between them and other data after the last one count for nothing.

    Raises:
        EOFError: the last one has no end.
    """
    data = stream.read(_STEP)
    while data:
        reader = begin()
        while not reader.eof:
            yield reader.decompress(data, _STEP)
            data = b""
            if reader.needs_input and not reader.eof:
                data = stream.read(_STEP)
                if not data:
                    raise EOFError
        data = reader.unused_data.lstrip(b"\0")
        while len(data) < len(signature) and (more := stream.read(_STEP)):
            data = (data + more).lstrip(b"\0")
        if not data.startswith(signature):
            if data and signature.startswith(data):
                raise EOFError
            return
