"""The packed pixels of a PNG: whether all are there, and have the right checksum."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from PIL import Image

_FIRST_CHUNK = 8
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # colour type -> samples of a pixel
# ISO/IEC 15948, 8.2: first column and row of each pass of Adam7, and the steps to the next
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_HEADER = 2  # bytes of a zlib stream before its packed data
_STEP = 1 << 18


def is_filled(picture: Image.Image) -> bool:
    """Whether a decoded PNG has all its rows for sure: Pillow leaves those zero that are missing, without an error."""
    last = picture.crop((0, picture.height - 1, picture.width, picture.height))
    return not picture.info.get("interlace") and any(last.tobytes())


def checked(data: bytes) -> bytes | None:
    """Return a PNG with a valid header with the right checksum of its rows; None if rows are missing.

    A PNG whose packed data can't be unpacked is returned as it is: its decoder refuses it.
    """
    missing, total = _size(*struct.unpack_from(">IIBB2xB", data, 16)), zlib.adler32(b"")
    unpacker, chunks = zlib.decompressobj(-zlib.MAX_WBITS), list(_chunks(data))
    packed = b"".join(data[at + 8 : end - 4] for at, end in chunks)
    rest = packed[_HEADER:]
    try:
        while rest and missing >= 0 and not unpacker.eof:
            rows = unpacker.decompress(rest, _STEP)
            missing, total, rest = missing - len(rows), zlib.adler32(rows, total), unpacker.unconsumed_tail
        if missing > len(unpacker.flush()):
            return None
    except zlib.error:
        return data
    right, stored = struct.pack(">I", total), unpacker.unused_data
    if not unpacker.eof or stored[:4] == right or len(stored) != 4 or not all(_is_sound(data, *one) for one in chunks):
        return data
    body = b"IDAT" + packed[:-4] + right
    pixels = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return data[: chunks[0][0]] + pixels + data[chunks[-1][1] :]


def _size(width: int, height: int, depth: int, colour_type: int, interlaced: int) -> int:
    """Return the bytes of all rows, each with the number of its filter before it."""
    size = 0
    for left, top, across, down in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = (
            max(0, -(-(total - first) // step)) for total, first, step in ((width, left, across), (height, top, down))
        )
        size += rows * (1 + (columns * depth * _SAMPLES[colour_type] + 7) // 8) if columns else 0
    return size


def _chunks(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield where each chunk of pixels begins and ends."""
    at = _FIRST_CHUNK
    while at + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        if name == b"IDAT":
            yield at, at + 12 + length
        at += 12 + length


def _is_sound(data: bytes, at: int, end: int) -> bool:
    return zlib.crc32(data[at + 4 : end - 4]).to_bytes(4, "big") == data[end - 4 : end]
