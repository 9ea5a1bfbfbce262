"""One file of a ZIP: where its bytes lie, and what they unpack to, bounded in memory at every step.

The reader of the standard library believes the directory, wherever that leads. It reads the directory here, and nothing
else. Files are stored or compressed with Deflate, which is what packers use unless told otherwise.
"""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import BinaryIO

from retllm.errors import MediaRejected

# APPNOTE.TXT 6.3.10, section 4.3.7: signature, version, flags, method, time, date, CRC, both sizes, both lengths
_LOCAL = struct.Struct("<4s5H3L2H")
_SIGNATURE = b"PK\x03\x04"
# section 4.4.4: the entry, its key, its headers
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_DESCRIPTOR = 0x8
_PATCH = 0x20
_UTF8_NAME = 0x800
_ELSEWHERE = 0xFFFFFFFF  # the size is in a field of the 64-bit form
# Pictures are packed already (1 time), texts come to 10 or 20 and drawn bitmaps to some 100 times; what was made to
# fill a disk comes to 1,000 and more. Small files may be what they like.
_MAX_TIMES = 200
_SMALL = 1 << 20
_STEP = 1 << 16
# section 4.4.5: those that packers offer besides Deflate
_METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ", 98: "PPMd"}


@dataclass(frozen=True, slots=True)
class EntryLocation:
    """Where an entry lies in its ZIP, from its header to behind its bytes, which begin at ``data``."""

    start: int
    data: int
    end: int
    agrees: bool
    """Whether its header says what the directory says: else two readers see two files."""


def locate(stream: BinaryIO, entry: zipfile.ZipInfo) -> EntryLocation:
    """Where the entry lies, by its own header."""
    start = entry.header_offset
    stream.seek(start)
    head = stream.read(_LOCAL.size)
    if len(head) < _LOCAL.size or not head.startswith(_SIGNATURE):
        data = start + _LOCAL.size
        return EntryLocation(start, data, data + entry.compress_size, agrees=False)
    _, _, flags, method, _, _, crc, packed, unpacked, name, extra = _LOCAL.unpack(head)
    data = start + _LOCAL.size + name + extra
    known = entry.orig_filename.encode("utf-8" if entry.flag_bits & _UTF8_NAME else "cp437")
    agrees = stream.read(name) == known and method == entry.compress_type
    agrees = agrees and not (flags ^ entry.flag_bits) & _ENCRYPTED
    if not (flags | entry.flag_bits) & _DESCRIPTOR:
        agrees = agrees and crc == entry.CRC
        agrees = agrees and packed in (entry.compress_size, _ELSEWHERE) and unpacked in (entry.file_size, _ELSEWHERE)
    return EntryLocation(start, data, data + entry.compress_size, agrees)


def are_apart(places: Collection[EntryLocation], end: int) -> bool:
    """Whether no two entries share bytes, nor any the directory that begins at ``end``.

    Where they do, few bytes unpack to more than all of them could (Fifield, A better zip bomb, 2019).
    """
    behind = 0
    for place in sorted(places, key=lambda one: one.start):
        if place.start < behind:
            return False
        behind = place.end
    return behind <= end


def check(entry: zipfile.ZipInfo, place: EntryLocation) -> None:
    """Refuse what is not to be unpacked.

    Raises:
        MediaRejected: the entry is encrypted, a link, a device or the like, compressed otherwise than with Deflate,
            made to fill the disk, or told differently by the directory and by its own header.
    """
    if entry.flag_bits & _ENCRYPTED:
        raise MediaRejected("The file is encrypted: pack it again without a password.")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind == stat.S_IFLNK:
        raise MediaRejected("The file is a link: pack what it leads to.")
    if kind not in (0, stat.S_IFREG):
        raise MediaRejected("The entry is no plain file, but a device, a pipe or the like: leave it out.")
    if not place.agrees:
        raise MediaRejected("The file is damaged inside the ZIP, its two headers disagree: pack it again.")
    if entry.flag_bits & _PATCH:
        raise MediaRejected("The entry is a patch of another file: pack the whole file.")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        method = _METHODS.get(entry.compress_type, f"method {entry.compress_type}")
        raise MediaRejected(f"The file is compressed with {method}, which is not accepted: zip it again with Deflate.")
    if entry.file_size > _SMALL and entry.file_size > _MAX_TIMES * entry.compress_size:
        raise MediaRejected(
            f"The file unpacks to more than {_MAX_TIMES} times its size, as if to fill the disk: send it by itself."
        )


class Unpacked:
    """The unpacked bytes of an entry that ``check`` lets pass, to be read once from the start to the end."""

    def __init__(self, stream: BinaryIO, entry: zipfile.ZipInfo, place: EntryLocation) -> None:
        self._stream = stream
        self._at, self._end = place.data, place.end
        self._left, self._crc, self._wanted = entry.file_size, 0, entry.CRC
        stored = entry.compress_type == zipfile.ZIP_STORED
        self._inflater = None if stored else zlib.decompressobj(-zlib.MAX_WBITS)

    def read(self, count: int) -> bytes:
        """``count`` bytes at most, none at the end.

        Raises:
            MediaRejected: it is damaged, or is more than the directory says.
        """
        try:
            data = self._next(count)
        except (zlib.error, OSError) as error:
            raise _damaged() from error
        self._left -= len(data)
        self._crc = zlib.crc32(data, self._crc)
        if self._left < 0:
            # what was checked of the directory has to hold
            raise MediaRejected("The file unpacks to more than the ZIP says: pack it again.")
        if not data and (self._left or self._crc != self._wanted):
            raise _damaged()
        return data

    def _next(self, count: int) -> bytes:
        if self._inflater is None:
            return self._packed(count)
        while not self._inflater.eof:
            packed = self._inflater.unconsumed_tail or self._packed(_STEP)
            # it may hold more bytes than it was given now, and what it was given may come to none
            if data := self._inflater.decompress(packed, count):
                return data
            if not packed:
                break
        return b""

    def _packed(self, count: int) -> bytes:
        self._stream.seek(self._at)
        data = self._stream.read(min(count, self._end - self._at))
        self._at += len(data)
        return data


def _damaged() -> MediaRejected:
    return MediaRejected("The file is damaged inside the ZIP: pack it again.")
