"""Read a ZIP that lost the directory at its end, as an interrupted download leaves it.

Every file has a header of its own before it. Where this lacks the size, because the file was packed as a stream,
Deflate tells its end itself; a stored file ends where a descriptor states just its size and checksum.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast

from retllm.errors import TooLarge
from retllm.media import streams
from retllm.media.unpacking import DEFLATED, DESCRIPTOR, ENCRYPTED, LOCAL, LOCAL_SIGNATURE, MAX_RATIO, SMALL, STORED
from retllm.media.zip_directory import IN_ZIP64, WRITTEN_BYTES, ZipEntry, directory_limit, in_64_bits, written
from retllm.settings import Settings

_STEP = 1 << 16
_SIGNATURE = b"PK\x07\x08"
# section 4.3.9 of APPNOTE.TXT 6.3.10: CRC and both sizes of 32 or 64 bits, usually after a signature
_DESCRIPTORS = (struct.Struct("<3L"), struct.Struct("<L2Q"))
_LONGEST_DESCRIPTOR = len(_SIGNATURE) + 20
_DIRECTORY = (b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x08")


@dataclass(frozen=True, slots=True)
class Recovered:
    """The files that are there whole.

    Attributes:
        end: where the last of them ends.
        is_complete: whether the directory begins there, so that no file is missing.
    """

    entries: list[ZipEntry]
    end: int
    is_complete: bool


def recovered(stream: BinaryIO, first: int, settings: Settings) -> Recovered:
    """Return the whole files of a ZIP without a directory, the first of which begins at ``first``.

    Raises:
        TooLarge: there are more of them, or longer names, than a directory may have.
    """
    entries: list[ZipEntry] = []
    end, left = first, directory_limit(settings)
    for entry, end in _entries(stream, first, settings):  # noqa: B007 - the last end counts
        entries.append(entry)
        left -= WRITTEN_BYTES + len(entry.name) + len(entry.extra)
        if left < 0 or len(entries) > settings.max_archive_files:
            raise TooLarge(
                f"The ZIP contains more files than RETLLM_MAX_ARCHIVE_FILES allows ({settings.max_archive_files:,}): "
                "send it in parts.",
                limit=settings.max_archive_files,
            )
    stream.seek(end)
    return Recovered(entries, end, stream.read(4) in _DIRECTORY)


def rewritten(stream: BinaryIO, found: Recovered, stack: ExitStack, check: Callable[[], None]) -> BinaryIO:
    """Return the ZIP with a directory of its whole files; ``stack`` closes it."""
    copy = cast("BinaryIO", SpooledTemporaryFile(max_size=streams.IN_MEMORY))  # noqa: SIM115 - the stack closes it
    stack.callback(copy.close)
    stream.seek(0)
    left = found.end
    while left and (data := stream.read(min(left, streams.CHUNK))):
        check()
        copy.write(data)
        left -= len(data)
    copy.write(written(found.entries, found.end))
    copy.seek(0)
    return copy


def _entries(stream: BinaryIO, at: int, settings: Settings) -> Iterator[tuple[ZipEntry, int]]:
    """Yield each file and where it ends."""
    length = streams.length(stream)
    left = settings.max_archive_bytes  # of files whose size has to be found by unpacking
    while True:
        stream.seek(at)
        head = stream.read(LOCAL.size)
        if len(head) < LOCAL.size or not head.startswith(LOCAL_SIGNATURE):
            return
        _, _, flags, method, _, _, crc, packed, size, names, extras = LOCAL.unpack(head)
        name, extra = stream.read(names), stream.read(extras)
        data = at + LOCAL.size + names + extras
        size, packed = in_64_bits(extra, [size, packed])
        end = data + packed
        if flags & DESCRIPTOR:
            measure = {DEFLATED: _measured, STORED: _searched}.get(method)
            measured = measure(stream, data, left) if measure and not flags & ENCRYPTED else None
            if measured is None:
                return
            crc, packed, size, end = measured
            left -= size
        if end > length:
            return
        yield ZipEntry(name, flags, method, crc, packed, size, 0, at, extra), end
        at = end


def _measured(stream: BinaryIO, start: int, most: int) -> tuple[int, int, int, int] | None:
    """Unpack a file to find its end; return its CRC, both sizes, and the end of its descriptor, which must agree."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    crc = size = read = 0
    stream.seek(start)
    try:
        while not inflater.eof:
            packed = inflater.unconsumed_tail
            if not packed:
                packed = stream.read(_STEP)
                read += len(packed)
            if not packed:
                return None
            data = inflater.decompress(packed, _STEP)
            crc, size = zlib.crc32(data, crc), size + len(data)
            if size > min(most, max(SMALL, MAX_RATIO * read)):
                return None
    except zlib.error:
        return None
    taken = read - len(inflater.unused_data)
    stream.seek(start + taken)
    after = stream.read(_LONGEST_DESCRIPTOR)
    for begin in (len(_SIGNATURE), 0):
        for form in _DESCRIPTORS:
            fields = after[begin : begin + form.size]
            if after[:begin] in (_SIGNATURE, b"") and fields == form.pack(crc, *_fitting(form, taken, size)):
                return crc, taken, size, start + taken + begin + form.size
    return None


def _searched(stream: BinaryIO, start: int, most: int) -> tuple[int, int, int, int] | None:
    """Find the end of a stored file by its descriptor; return the same as :func:`_measured`."""
    stream.seek(start)
    window, base = b"", start  # the bytes from an offset on
    crc, counted = 0, start  # of the bytes before an offset
    is_end = False
    while not is_end and base - start <= most:
        data = stream.read(_STEP)
        is_end = not data
        window += data
        found = window.find(_SIGNATURE)
        while found >= 0 and (is_end or found + _LONGEST_DESCRIPTOR <= len(window)):
            size = base + found - start
            for form in _DESCRIPTORS:
                if window.startswith(form.pack(0, *_fitting(form, size, size))[4:], found + len(_SIGNATURE) + 4):
                    crc, counted = zlib.crc32(window[counted - base : found], crc), base + found
                    if window.startswith(struct.pack("<L", crc), found + len(_SIGNATURE)):
                        return crc, size, size, counted + len(_SIGNATURE) + form.size
            found = window.find(_SIGNATURE, found + 1)
        done = found if found >= 0 else max(0, len(window) - len(_SIGNATURE) + 1)
        if base + done > counted:
            crc, counted = zlib.crc32(window[counted - base : done], crc), base + done
        window, base = window[done:], base + done
    return None


def _fitting(form: struct.Struct, packed: int, size: int) -> Sequence[int]:
    return (packed, size) if form is _DESCRIPTORS[1] else (packed & IN_ZIP64, size & IN_ZIP64)
