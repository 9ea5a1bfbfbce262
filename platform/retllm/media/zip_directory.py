"""The directory of a ZIP, entry by entry: an odd name or field concerns its own entry only.

The standard library's reader refuses a whole archive for one name that is not in the encoding that its flag states.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from retllm.errors import MediaRejected, TooLarge
from retllm.media import streams
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
_ZIP64 = 0x0001
_IN_ZIP64 = 0xFFFFFFFF
_EXTRA_HEAD = struct.Struct("<2H")
_NO_DISK = (0, 0xFFFF)


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
    """All entries, and the offset at which the directory begins."""

    entries: list[ZipEntry]
    start: int


def read_directory(stream: BinaryIO, settings: Settings) -> Directory:
    """Read the directory of a ZIP, which may come after other data.

    Raises:
        MediaRejected: it can't be read, or is that of an archive in several parts.
        TooLarge: it is larger than that of ``max_archive_files`` files; it is not read then.
    """
    size, offset, location = _end(stream)
    if size > settings.max_archive_files * _BYTES_PER_FILE + _BYTES_MORE:
        raise TooLarge(
            f"The ZIP contains more files than RETLLM_MAX_ARCHIVE_FILES allows ({settings.max_archive_files:,}): "
            "send it in parts.",
            limit=settings.max_archive_files,
        )
    start = location - size
    if start < 0:
        raise _broken()
    stream.seek(start)
    # offsets count from the first byte of the archive, which other data may precede
    return Directory(list(_entries(stream.read(size), start - offset)), start)


def _end(stream: BinaryIO) -> tuple[int, int, int]:
    """Return size and offset of the directory, and where the record begins that follows it."""
    length = streams.length(stream)
    first = max(0, length - _END.size - _COMMENT)
    stream.seek(first)
    tail = stream.read(_END.size + _COMMENT)
    position = tail.rfind(b"PK\x05\x06")
    if position < 0 or len(tail) - position < _END.size:
        raise _broken()
    _, disk, disk_of_directory, _, _, size, offset, _ = _END.unpack_from(tail, position)
    if disk not in _NO_DISK or disk_of_directory not in _NO_DISK:
        raise MediaRejected("The ZIP is the last part of several: join them to one ZIP, or pack the files again.")
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
            raise _broken()
        fields = _ENTRY.unpack_from(directory, at)
        _, _, _, flags, method, _, _, crc, packed, size, name, extra, comment, _, _, attributes, offset = fields
        at += _ENTRY.size
        if at + name + extra + comment > len(directory):
            raise _broken()
        more = directory[at + name : at + name + extra]
        size, packed, offset = _in_64_bits(more, [size, packed, offset])
        yield ZipEntry(directory[at : at + name], flags, method, crc, packed, size, attributes, offset + shift, more)
        at += name + extra + comment


def _in_64_bits(extra: bytes, values: list[int]) -> list[int]:
    """Replace the values that are too large for 32 bits by those of the extra field, in its order."""
    field = next((data for kind, data in extra_fields(extra) if kind == _ZIP64), b"")
    for number, value in enumerate(values):
        if value == _IN_ZIP64 and len(field) >= 8:
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


def _broken() -> MediaRejected:
    return MediaRejected("The ZIP can't be read because it is damaged or truncated: pack it again.")
