"""Find small faults of sound pictures, and leave out what would make a decoder refuse them."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass, field

from PIL import Image

from retllm.media.decoding.facts import Blemish

_PNG = b"\x89PNG\r\n\x1a\n"
_MAX_TEXT = 1 << 20  # bytes of text in a PNG; more is not needed to show it
MAX_PROFILE = 16 << 20
"""Maximum size of a colour profile in bytes; the largest in use, of printing presses, have a few MiB."""
_ANCILLARY = 0x20  # bit of a chunk's first letter: pixels don't depend on it
_SHORTEST = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9, b"sBIT": 1, b"acTL": 8}
_EOI = b"\xff\xd9"
_SEARCHED = 4096  # bytes at the end of a JPEG in which its end marker usually is
_MARKERS_ALONE = frozenset((0x01, *range(0xD0, 0xD8)))
_SOS = 0xDA


@dataclass(slots=True)
class Mended:
    """The bytes of a picture without what is faulty and not needed."""

    data: bytes
    blemishes: set[Blemish] = field(default_factory=set)
    bits: int | None = None  # of PNG's sBIT chunk


def mended(data: bytes) -> Mended:
    """Return the file in a form that a strict decoder accepts, if its pixels are sound."""
    if data.startswith(_PNG):
        return _mended_png(data)
    if data.startswith(b"\xff\xd8\xff"):
        return _mended_jpeg(data)
    found = Mended(data)
    if data.startswith(b"GIF8") and not data.rstrip(b"\0").endswith(b";"):
        found.blemishes.add(Blemish.END)
    if data[8:12] == b"WEBP" and len(data) > int.from_bytes(data[4:8], "little") + 9:
        found.blemishes.add(Blemish.TRAILING)
    return found


def is_complete(jpeg: bytes) -> bool:
    """Whether the pixels of a JPEG, to which an end marker was added, were all there before.

    A decoder replaces missing data with gray. So the bytes before the added marker are followed by others: where the
    data is complete, no pixel depends on these.
    """
    assert jpeg.endswith(_EOI)
    body = jpeg[: -len(_EOI)]
    pixels = []
    for added in (b"", b"\x2d\x5a\x93\x0c" * 64):
        with Image.open(io.BytesIO(body + added + _EOI), formats=("JPEG", "MPO")) as picture:
            pixels.append(zlib.crc32(picture.tobytes()))
    return pixels[0] == pixels[1]


def _mended_png(data: bytes) -> Mended:
    found, kept, text, at = Mended(data), [data[:8]], 0, len(_PNG)
    ended = False
    while not ended and at + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            # all pixels come before a cut-off chunk that they don't need
            data = data[:at] if name[0] & _ANCILLARY else data
            break
        body = data[at + 8 : end - 4] if name[0] & _ANCILLARY else b""
        flaw = _flaw(name, body, data[end - 4 : end]) if body or name in _SHORTEST else None
        if flaw is None and name in (b"tEXt", b"zTXt", b"iTXt"):
            text += _text_size(name, body, _MAX_TEXT - text)
            flaw = Blemish.LONG_TEXT if text > _MAX_TEXT else None
        if flaw is not None:
            found.blemishes.add(flaw)
        else:
            kept.append(data[at:end])
            if name == b"sBIT":
                found.bits = min(body)
        ended, at = name == b"IEND", end
    rest = data[at:]
    if not ended:
        found.blemishes.add(Blemish.END)
    elif rest.strip(b"\0\r\n "):
        found.blemishes.add(Blemish.TRAILING)
    if found.blemishes - {Blemish.TRAILING}:
        found.data = b"".join(kept) + rest
    return found


def _flaw(name: bytes, body: bytes, checksum: bytes) -> Blemish | None:
    if zlib.crc32(body, zlib.crc32(name)) != int.from_bytes(checksum, "big") or len(body) < _SHORTEST.get(name, 0):
        return Blemish.METADATA
    if name == b"iCCP" and _expanded(body[body.find(b"\0") + 2 :], MAX_PROFILE) > MAX_PROFILE:
        return Blemish.PROFILE
    return None


def _text_size(name: bytes, body: bytes, room: int) -> int:
    """Return the length of a chunk's text, or a number above ``room`` if it is longer than that."""
    if len(body) > room or name == b"tEXt":
        return len(body)
    at = body.find(b"\0") + 2
    if name == b"iTXt":
        if body[at - 1 : at] != b"\1":
            return len(body)
        # language and translated keyword come before the text
        at = body.find(b"\0", body.find(b"\0", at + 1) + 1) + 1
    return _expanded(body[at:], room)


def _expanded(packed: bytes, limit: int) -> int:
    """Return the unpacked length, or a number above ``limit``; what is not packed right counts as it is."""
    try:
        return len(zlib.decompressobj().decompress(packed, limit + 1))
    except zlib.error:
        return len(packed)


def _mended_jpeg(data: bytes) -> Mended:
    padding = data[-_SEARCHED:].rstrip(b"\0\xff\r\n ")
    start = None if padding.endswith(_EOI) else _scan_start(data)
    if start is None:
        return Mended(data)
    # inside the scans, this pair of bytes is nothing but the end marker
    end = data.find(_EOI, start)
    if end < 0:
        return Mended(data.removesuffix(b"\xff") + _EOI, {Blemish.END})
    rest = data[end + 2 :].lstrip(b"\0\xff\r\n ")
    # MPO: further pictures follow
    return Mended(data, {Blemish.TRAILING} if rest and not rest.startswith(b"\xd8\xff") else set())


def _scan_start(data: bytes) -> int | None:
    """Return where the first scan of a JPEG begins; metadata, which can hold a whole thumbnail, comes before it."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF or marker in _MARKERS_ALONE:
            at += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == _SOS:
            return at + 2 + length
        at += 2 + length
    return None
