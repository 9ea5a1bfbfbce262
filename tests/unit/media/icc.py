"""Colour profiles for tests, written by the ICC's specification (ICC.1:2001-04)."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Mapping

_D50 = (0.9642, 1.0, 0.8249)
# primaries of Display P3 and of Adobe RGB (1998), adapted to D50: XYZ of red, green, blue
P3 = ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))
ADOBE = ((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446))


def rgb_profile(gamma: float, colorants: tuple[tuple[float, ...], ...]) -> bytes:
    """A display: one gamma, and three colorants."""
    named = zip((b"rXYZ", b"gXYZ", b"bXYZ"), map(_xyz, colorants), strict=True)
    return _profile(b"mntr", b"RGB ", b"XYZ ", dict(named) | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _curve(gamma)))


def gray_profile(gamma: float) -> bytes:
    """A gray display."""
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": _curve(gamma)})


def cmyk_profile() -> bytes:
    """A press whose paper is white and whose inks, from one step to the next, are far from the plain formula."""
    table = b""
    for cyan, magenta, yellow, black in itertools.product((0, 1), repeat=4):
        lightness = 255 * (1 - 0.3 * cyan) * (1 - 0.4 * magenta) * (1 - 0.1 * yellow) * (1 - 0.9 * black)
        a = 128 - 40 * cyan + 70 * magenta - 5 * yellow
        b = 128 - 45 * cyan - 5 * magenta + 85 * yellow
        neutral = 0.1 if black else 1.0
        table += bytes((round(lightness), round(128 + (a - 128) * neutral), round(128 + (b - 128) * neutral)))
    identity = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 if place % 4 == 0 else 0 for place in range(9)))
    lut = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + matrix + identity * 4 + table + identity * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", dict.fromkeys((b"A2B0", b"A2B1"), lut))


def _profile(kind: bytes, space: bytes, connection: bytes, tags: Mapping[bytes, bytes]) -> bytes:
    tags = {b"wtpt": _xyz(_D50), **tags}
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        padded = value + bytes(-len(value) % 4)
        table += struct.pack(">4sII", name, start + len(body), len(value))
        body += padded
    size = 128 + len(table) + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"none", 0x02400000, kind, space, connection)
    head += bytes(12) + b"acsp" + bytes(28) + _xyz(_D50)[8:]
    return head.ljust(128, b"\0") + table + body


def _xyz(values: tuple[float, ...]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))


def _curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
