"""The directory of a ZIP, entry by entry: an odd name or field concerns its own entry only.

The standard library's reader refuses a whole archive for one name that is not in the encoding that its flag states.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from retllm.errors import MediaRejected, TooLarge
from retllm.media import streams
from retllm.media.other_kinds import SPLIT
from retllm.settings import Settings

# APPNOTE.TXT 6.3.10, sections 4.3.16, 4.3.14, 4.3.15 and 4.3.12
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_COMMENT = 65535
# an entry has 46 bytes and a name
_BYTES_PER_FILE = 512
_BYTES_MORE = 1 << 20
# section 4.5.3: sizes and offset that do not fit into 32 bits
ZIP64 = 0x0001
IN_ZIP64 = 0xFFFFFFFF
"""A size or an offset that is in the ZIP64 field of the entry."""
# section 4.6.9: Info-ZIP Unicode Path, with its version and the CRC of the name that it is for
UNICODE_PATH = 0x7075
_EXTRA_HEAD = struct.Struct("<2H")
_NUMBERS = struct.Struct("<3Q")
_NO_DISK = (0, 0xFFFF)
_LONGEST_EXTRA = 0xFFFF
WRITTEN_BYTES = _ENTRY.size + _EXTRA_HEAD.size + _NUMBERS.size
"""Bytes that an entry has in a directory that is written, besides its name and the fields that are kept."""


@dataclass(frozen=True, slots=True)
class ZipEntry:
    """An entry of the directory, as it states itself; ``name`` and ``extra`` are the bytes that it has."""

    name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    attributes: int
    offset: int
    extra: bytes


@dataclass(frozen=True, slots=True)
class Directory:
    """All entries, the offset at which the directory begins, and how much other data precedes the first entry."""

    entries: list[ZipEntry]
    start: int
    shift: int


def directory_limit(settings: Settings) -> int:
    """Return the size of the largest directory that is read."""
    return settings.max_archive_files * _BYTES_PER_FILE + _BYTES_MORE


def read_directory(stream: BinaryIO, settings: Settings) -> Directory | None:
    """Read the directory of a ZIP, which may come after other data; None if it is not there.

    Raises:
        MediaRejected: it can't be read, or is that of an archive in several parts.
        TooLarge: it is larger than that of ``max_archive_files`` files; it is not read then.
    """
    found = _end(stream)
    if found is None:
        return None
    size, offset, location = found
    if size > directory_limit(settings):
        raise TooLarge(
            f"The ZIP contains more files than RETLLM_MAX_ARCHIVE_FILES allows ({settings.max_archive_files:,}): "
            "send it in parts.",
            limit=settings.max_archive_files,
        )
    start = location - size
    if start < 0:
        raise broken()
    stream.seek(start)
    # offsets count from the first byte of the archive, which other data may precede
    return Directory(list(_entries(stream.read(size), start - offset)), start, start - offset)


def _end(stream: BinaryIO) -> tuple[int, int, int] | None:
    """Return size and offset of the directory, and where the record begins that follows it; None without one."""
    length = streams.length(stream)
    first = max(0, length - _END.size - _COMMENT)
    stream.seek(first)
    tail = stream.read(_END.size + _COMMENT)
    position = tail.rfind(b"PK\x05\x06")
    if position < 0 or len(tail) - position < _END.size:
        return None
    _, disk, disk_of_directory, _, _, size, offset, _ = _END.unpack_from(tail, position)
    if disk not in _NO_DISK or disk_of_directory not in _NO_DISK:
        raise MediaRejected(f"The file is {SPLIT}.")
    location = first + position
    before = location - _LOCATOR64.size - _END64.size
    if before >= 0:
        stream.seek(before)
        record, locator = stream.read(_END64.size), stream.read(_LOCATOR64.size)
        if record.startswith(b"PK\x06\x06") and locator.startswith(b"PK\x06\x07"):
            return (*_END64.unpack(record)[8:], before)
    return size, offset, location


def _entries(directory: bytes, shift: int) -> Iterator[ZipEntry]:
    at = 0
    while at < len(directory):
        if len(directory) - at < _ENTRY.size or not directory.startswith(b"PK\x01\x02", at):
            raise broken()
        fields = _ENTRY.unpack_from(directory, at)
        _, _, _, flags, method, _, _, crc, packed, size, name, extra, comment, _, _, attributes, offset = fields
        at += _ENTRY.size
        if at + name + extra + comment > len(directory):
            raise broken()
        more = directory[at + name : at + name + extra]
        size, packed, offset = in_64_bits(more, [size, packed, offset])
        yield ZipEntry(directory[at : at + name], flags, method, crc, packed, size, attributes, offset + shift, more)
        at += name + extra + comment


def in_64_bits(extra: bytes, values: list[int]) -> list[int]:
    """Replace the values that are too large for 32 bits by those of the extra field, in its order."""
    field = next((data for kind, data in extra_fields(extra) if kind == ZIP64), b"")
    for number, value in enumerate(values):
        if value == IN_ZIP64 and len(field) >= 8:
            values[number] = int.from_bytes(field[:8], "little")
            field = field[8:]
    return values


def extra_fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield kind and content of each field in an extra field."""
    at = 0
    while at + _EXTRA_HEAD.size <= len(extra):
        kind, size = _EXTRA_HEAD.unpack_from(extra, at)
        at += _EXTRA_HEAD.size
        yield kind, extra[at : at + size]
        at += size


def written(entries: Sequence[ZipEntry], start: int) -> bytes:
    """Return a directory of these entries, to stand at ``start``; all numbers of ZIP64 are in it.

    Raises:
        MediaRejected: there is no room for the Unicode path of an entry, without which it has another name.
    """
    directory = bytearray()
    for entry in entries:
        extra = _EXTRA_HEAD.pack(ZIP64, _NUMBERS.size) + _NUMBERS.pack(entry.size, entry.packed, entry.offset)
        path = next((data for kind, data in extra_fields(entry.extra) if kind == UNICODE_PATH), None)
        if path is not None:
            extra += _EXTRA_HEAD.pack(UNICODE_PATH, len(path)) + path
        if len(extra) > _LONGEST_EXTRA:
            raise broken()
        head = (45, 45, entry.flags, entry.method, 0, 0, entry.crc, IN_ZIP64, IN_ZIP64, len(entry.name), len(extra))
        directory += _ENTRY.pack(b"PK\x01\x02", *head, 0, 0, 0, entry.attributes, IN_ZIP64) + entry.name + extra
    size, count = len(directory), len(entries)
    end = _END64.pack(b"PK\x06\x06", _END64.size - 12, 45, 45, 0, 0, count, count, size, start)
    end += _LOCATOR64.pack(b"PK\x06\x07", 0, start + size, 1)
    return bytes(directory + end + _END.pack(b"PK\x05\x06", 0, 0, *(0xFFFF,) * 2, *(IN_ZIP64,) * 2, 0))


def broken() -> MediaRejected:
    """Return the error for a ZIP that can't be read."""
    return MediaRejected("The ZIP can't be read because it is damaged or truncated: pack it again.")
