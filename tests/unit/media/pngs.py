"""PNG files written chunk by chunk (ISO/IEC 15948), with faults where a test wants them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

Chunk = tuple[bytes, bytes]


def chunk(name: bytes, body: bytes, checksum: int | None = None) -> bytes:
    """One chunk; with ``checksum`` instead of the right one."""
    right = zlib.crc32(name + body) if checksum is None else checksum
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", right)


def png(pixels: np.ndarray[Any, Any], before: bytes | Iterable[Chunk] = b"") -> bytes:
    """Gray or RGB of 8 or 16 bits, with further chunks before the pixels."""
    height, width = pixels.shape[:2]
    depth = 8 * pixels.dtype.itemsize
    extra = before if isinstance(before, bytes) else b"".join(chunk(*one) for one in before)
    rows = b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, depth, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
