"""The packed pixels of a PNG: whether all are there, which Pillow does not check."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

_FIRST_CHUNK = 8
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # colour type -> samples of a pixel
# ISO/IEC 15948, 8.2: first column and row of each pass of Adam7, and the steps to the next
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_HEADER = 2  # bytes of a zlib stream before its packed data
_STEP = 1 << 18


def is_complete(data: bytes) -> bool:
    """Whether the packed data of a PNG with a valid header, or of one that can't be unpacked, gives all its rows."""
    missing = _size(*struct.unpack_from(">IIBB2xB", data, 16))
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        # the checksum at the end does not matter here
        for packed in _pieces(data):
            while packed and missing > 0 and not unpacker.eof:
                missing -= len(unpacker.decompress(packed, _STEP))
                packed = unpacker.unconsumed_tail
            if missing <= 0 or unpacker.eof:
                break
    except zlib.error:  # the decoder says so
        return True
    return missing <= 0


def _size(width: int, height: int, depth: int, colour_type: int, interlaced: int) -> int:
    """Return the bytes of all rows, each with the number of its filter before it."""
    size = 0
    for left, top, across, down in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = (
            max(0, -(-(total - first) // step)) for total, first, step in ((width, left, across), (height, top, down))
        )
        size += rows * (1 + (columns * depth * _SAMPLES[colour_type] + 7) // 8) if columns else 0
    return size


def _pieces(data: bytes) -> Iterator[bytes]:
    """Yield the packed data of each chunk of pixels, without the header of the stream."""
    at, skipped = _FIRST_CHUNK, _HEADER
    while at + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        if name == b"IDAT":
            piece = data[at + 8 : at + 8 + length]
            yield piece[skipped:]
            skipped = max(0, skipped - len(piece))
        at += 12 + length
