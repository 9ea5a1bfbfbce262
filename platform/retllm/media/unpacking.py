"""Locate and unpack one file of a ZIP with bounded memory.

The ``zipfile`` module trusts the directory unconditionally, so it is not used. Files must be stored or compressed with
Deflate, the default of common tools.
"""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import BinaryIO

from retllm.errors import MediaRejected
from retllm.media.special_files import NO_FILE
from retllm.media.zip_directory import IN_ZIP64, ZipEntry

# APPNOTE.TXT 6.3.10, section 4.3.7: signature, version, flags, method, time, date, CRC, both sizes, both lengths
LOCAL = struct.Struct("<4s5H3L2H")
LOCAL_SIGNATURE = b"PK\x03\x04"
# section 4.4.4: encryption of the entry, strong encryption, encrypted headers
ENCRYPTED = 0x1 | 0x40 | 0x2000
DESCRIPTOR = 0x8
_PATCH = 0x20
# maximum compression ratio: pictures have about 1, texts 10 to 20, drawn bitmaps about 100, and ZIP bombs 1,000 or more
MAX_RATIO = 200
# files up to this size may have any ratio
SMALL = 1 << 20
_STEP = 1 << 16
# section 4.4.5: methods of compression, and those other than Deflate that common tools offer
STORED, DEFLATED = 0, 8
_METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ", 98: "PPMd"}


@dataclass(frozen=True, slots=True)
class EntryLocation:
    """Byte range of an entry in its ZIP, from its header to the end of its data, which begins at ``data``."""

    start: int
    data: int
    end: int
    agrees: bool
    """Whether its local header agrees with the directory; otherwise two readers could see two different files."""


def locate(stream: BinaryIO, entry: ZipEntry) -> EntryLocation:
    """Locate the entry by its local header."""
    start = entry.offset
    stream.seek(start)
    head = stream.read(LOCAL.size)
    if len(head) < LOCAL.size or not head.startswith(LOCAL_SIGNATURE):
        data = start + LOCAL.size
        return EntryLocation(start, data, data + entry.packed, agrees=False)
    _, _, flags, method, _, _, crc, packed, unpacked, name, extra = LOCAL.unpack(head)
    data = start + LOCAL.size + name + extra
    # not read if it is longer, because many entries may state one long header
    agrees = name == len(entry.name) and stream.read(name) == entry.name and method == entry.method
    agrees = agrees and not (flags ^ entry.flags) & ENCRYPTED
    if not (flags | entry.flags) & DESCRIPTOR:
        agrees = agrees and crc == entry.crc
        agrees = agrees and packed in (entry.packed, IN_ZIP64) and unpacked in (entry.size, IN_ZIP64)
    return EntryLocation(start, data, data + entry.packed, agrees)


def are_apart(places: Collection[EntryLocation], end: int) -> bool:
    """Return whether no entry overlaps another one or the directory, which begins at ``end``.

    Overlapping entries allow ratios far above that of Deflate (Fifield, A better zip bomb, 2019).
    """
    last_end = 0
    for place in sorted(places, key=lambda place: place.start):
        if place.start < last_end:
            return False
        last_end = place.end
    return last_end <= end


def check(entry: ZipEntry, place: EntryLocation) -> None:
    """Reject an entry that must not be unpacked.

    Raises:
        MediaRejected: the entry is encrypted, a device or the like, not compressed with Deflate, or a ZIP bomb, or its
            local header differs from the directory.
    """
    if entry.flags & ENCRYPTED:
        raise MediaRejected("The file is encrypted: pack it again without a password.")
    if stat.S_IFMT(entry.attributes >> 16) not in (0, stat.S_IFREG, stat.S_IFLNK):
        raise MediaRejected(NO_FILE)
    if not place.agrees:
        raise MediaRejected("The file is damaged inside the ZIP (its two headers disagree): pack it again.")
    if entry.flags & _PATCH:
        raise MediaRejected("The entry is a patch of another file: pack the whole file.")
    if entry.method not in (STORED, DEFLATED):
        method = _METHODS.get(entry.method, f"method {entry.method}")
        raise MediaRejected(f"The file is compressed with {method}, which is not accepted: zip it again with Deflate.")
    if entry.size > SMALL and entry.size > MAX_RATIO * entry.packed:
        raise MediaRejected(
            f"The file unpacks to more than {MAX_RATIO} times its size, like a ZIP bomb: send it without the ZIP."
        )


class Unpacked:
    """A stream of the unpacked bytes of an entry that passed ``check``; it can be read once."""

    def __init__(self, stream: BinaryIO, entry: ZipEntry, place: EntryLocation) -> None:
        self._stream = stream
        self._position, self._end = place.data, place.end
        self._left, self._crc, self._expected_crc = entry.size, 0, entry.crc
        stored = entry.method == STORED
        self._inflater = None if stored else zlib.decompressobj(-zlib.MAX_WBITS)

    def read(self, count: int) -> bytes:
        """Return at most ``count`` bytes, none at the end.

        Raises:
            MediaRejected: the entry is damaged, or larger than the directory says.
        """
        try:
            data = self._next(count)
        except (zlib.error, OSError) as error:
            raise _damaged() from error
        self._left -= len(data)
        self._crc = zlib.crc32(data, self._crc)
        if self._left < 0:
            # the size in the directory was checked against the limits
            raise MediaRejected("The file unpacks to more bytes than the ZIP states: pack it again.")
        if not data and (self._left or self._crc != self._expected_crc):
            raise _damaged()
        return data

    def _next(self, count: int) -> bytes:
        if self._inflater is None:
            return self._packed(count)
        while not self._inflater.eof:
            packed = self._inflater.unconsumed_tail or self._packed(_STEP)
            # the inflater may still hold output, and input may produce no output yet
            if data := self._inflater.decompress(packed, count):
                return data
            if not packed:
                break
        return b""

    def _packed(self, count: int) -> bytes:
        self._stream.seek(self._position)
        data = self._stream.read(min(count, self._end - self._position))
        self._position += len(data)
        return data


def _damaged() -> MediaRejected:
    return MediaRejected("The file is damaged inside the ZIP: pack it again.")
