"""Photoshop files, written by Adobe's specification of the format."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

MODES = {"1": 0, "L": 1, "P": 2, "RGB": 3, "CMYK": 4, "LAB": 9}


def psd(
    pixels: np.ndarray[Any, Any],
    mode: str,
    *,
    packed: bool = False,
    large: bool = False,
    palette: bytes = b"",
    resources: dict[int, bytes] | None = None,
    layers: bytes = b"",
    depth: int | None = None,
) -> bytes:
    """A PSD, or with ``large`` a PSB, of these channels (height, width, channels)."""
    height, width, channels = pixels.shape
    depth = depth or 8 * pixels.dtype.itemsize
    blocks = b"".join(
        b"8BIM" + struct.pack(">H2xI", key, len(body)) + body + bytes(len(body) % 2)
        for key, body in (resources or {}).items()
    )
    head = b"8BPS" + struct.pack(">H6xHIIHH", 2 if large else 1, channels, height, width, depth, MODES[mode])
    if depth == 1:
        rows = [np.packbits(pixels[y, :, 0]).tobytes() for y in range(height)]
    else:
        ordered = pixels.astype(pixels.dtype.newbyteorder(">"))
        rows = [ordered[y, :, band].tobytes() for band in range(channels) for y in range(height)]
    if packed:
        rows = [_packbits(row) for row in rows]
    counts = b"".join(struct.pack(">I" if large else ">H", len(row)) for row in rows) if packed else b""
    return (
        head
        + struct.pack(">I", len(palette))
        + palette
        + struct.pack(">I", len(blocks))
        + blocks
        + len(layers).to_bytes(8 if large else 4, "big")
        + layers
        + struct.pack(">H", int(packed))
        + counts
        + b"".join(rows)
    )


def _packbits(row: bytes) -> bytes:
    """Pack runs of equal bytes, and others as they are."""
    made, at = b"", 0
    while at < len(row):
        run = 1
        while run < 128 and at + run < len(row) and row[at + run] == row[at]:
            run += 1
        made += bytes((257 - run, row[at])) if run > 1 else bytes((0, row[at]))
        at += run
    return made
