"""Find small faults of sound pictures, and leave out what would make a decoder refuse them."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from retllm.media.decoding.facts import Blemish
from retllm.media.decoding.texts import PNG_EXIF, PNG_TEXTS

_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
_APPLES = b"CgBI"  # the first chunk where the rows are packed in another way
_MAX_TEXT = 1 << 20  # bytes of text in a PNG; more is not needed to show it
MAX_PROFILE = 16 << 20
"""Maximum size of a colour profile in bytes; the largest in use, of printing presses, have a few MiB."""
_ANCILLARY = 0x20  # bit of a chunk's first letter: pixels don't depend on it
_SHORTEST = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9, b"sBIT": 1, b"cICP": 4}
_IEND = b"IEND"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_ANIMATION = (b"acTL", b"fcTL", b"fdAT")  # of an animated PNG, of which the default picture is shown
_COLOUR_TYPE = slice(25, 26)  # where a PNG has it
_INDEXED = b"\3"
_COLOURS = 256  # of a palette, at most
_TRANSPARENT = {b"\0": 2, b"\2": 6}  # colour type -> least bytes of tRNS
_EOI = b"\xff\xd9"
_SEARCHED = 4096  # bytes at the end of a JPEG in which its end marker usually is
_MARKERS_ALONE = frozenset((0x01, *range(0xD0, 0xD8)))
_SOS = 0xDA
_FRAMES = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)
_LOSSLESS, _JPEG_LS = (0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF), 0xF7
_PROGRESSIVE = (0xC2, 0xCA)  # of Huffman and arithmetic coding
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_HOLE = 32  # zeros in a row at the end of a scan that may stand for lost data
_FILLED = 500  # bytes, more than the rest of a unit of blocks takes, some of which may not be shown


@dataclass(slots=True)
class Mended:
    """The bytes of a picture without what is faulty and not needed."""

    data: bytes
    blemishes: set[Blemish] = field(default_factory=set)
    bits: int | None = None  # of PNG's sBIT chunk
    code_points: tuple[int, int] | None = None  # of PNG's cICP chunk
    texts: dict[bytes, bytes] = field(default_factory=dict)  # of PNG: EXIF, and texts by those keywords that count


def mended(data: bytes) -> Mended:
    """Return the file in a form that a strict decoder accepts, if its pixels are sound."""
    if data.startswith(_PNG):
        return _mended_png(data)
    if data.startswith(_JPEG):
        return _mended_jpeg(data)
    if data[8:12] == b"WEBP":
        return _mended_webp(data)
    found = Mended(data)
    if data.startswith(b"GIF8") and not data.rstrip(b"\0").endswith(b";"):
        found.blemishes.add(Blemish.END)
    return found


def _mended_webp(data: bytes) -> Mended:
    declared, at, ends = int.from_bytes(data[4:8], "little") + 8, 12, set()
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size
        if at == len(data) and size % 2:  # a chunk of odd size has a byte after it, which some programs forget
            data += b"\0"
        at += size % 2
        ends.add(at)
    if at == len(data) and declared not in ends:  # a program that did not know the size when it began
        return Mended(data[:4] + struct.pack("<I", len(data) - 8) + data[8:])
    return Mended(data, {Blemish.TRAILING} if len(data) > declared + 1 else set())


def is_readable(jpeg: bytes) -> bool:
    """Whether a JPEG is of a kind that is read and all its pixels are there, sound or not."""
    found = _mended_jpeg(jpeg)
    return unread_kind(jpeg) is None and (Blemish.END not in found.blemishes or is_complete(found.data))


def is_complete(jpeg: bytes) -> bool:
    """Whether the pixels of a JPEG, to which an end marker was added, were all there before.

    A decoder replaces missing data with gray. So the bytes before the added marker are followed by others, which begin
    different codes and further restart intervals: where the data is complete, no pixel depends on these.
    """
    assert jpeg.endswith(_EOI)
    body = jpeg[: -len(_EOI)].rstrip(b"\xff")  # before a marker, these fill
    kept = body.rstrip(b"\0")
    if len(body) - len(kept) < _HOLE:
        return _is_whole(body)
    # the zeros are padding, or a flat area, which takes all of them; those of a hole are too many or too few
    return _is_whole(kept + b"\0") or (_is_whole(body) and not _is_whole(body[: -_HOLE // 2]))


def is_suspect(jpeg: bytes) -> bool:
    """Whether a JPEG with an end marker may lack data before it: it lacks scans, or zeros take the place of data."""
    header = _scan_start(jpeg)
    # a long needle is found ten times faster than the marker alone
    return header is not None and (jpeg.find(bytes(_HOLE) + _EOI, header.scan) >= 0 or not _has_all_scans(jpeg, header))


def is_filled(picture: Image.Image) -> bool:
    """Whether a decoded JPEG ends with the gray that a decoder puts in the place of missing data."""
    pixel = picture.getpixel((picture.width - 1, picture.height - 1))
    return all(value in (127, 128) for value in (pixel if isinstance(pixel, tuple) else (pixel,)))


def up_to_end(jpeg: bytes) -> bytes:
    """Return a JPEG up to the end marker of its first picture."""
    header = _scan_start(jpeg)
    end = jpeg.find(_EOI, header.scan) if header else -1
    return jpeg if end < 0 else jpeg[: end + len(_EOI)]


def _is_whole(body: bytes) -> bool:
    header = _scan_start(body)
    if header is None or not _has_all_scans(body, header):
        return False
    pixels = set()
    for added in (b"", *_continued(body)):
        with Image.open(io.BytesIO(body + added + _EOI), formats=("JPEG", "MPO")) as picture:
            pixels.add(zlib.crc32(picture.tobytes()))
    return len(pixels) == 1


def _continued(jpeg: bytes) -> Iterator[bytes]:
    restarts = _RESTART.findall(jpeg, jpeg.rfind(bytes((0xFF, _SOS))))
    following = restarts[-1][1] + 1 if restarts else 0
    for byte in (0x55, 0xAA, 0x2D):
        yield b"".join(bytes((byte,)) * _FILLED + bytes((0xFF, 0xD0 + (following + n) % 8)) for n in range(8))


def _has_all_scans(jpeg: bytes, header: _Header) -> bool:
    """Whether the scans of a JPEG, if it is progressive, give every coefficient with all its bits."""
    lacking = {(component, place) for component in header.progressive for place in range(64)}
    for at in _scans(jpeg, header.scan) if lacking else ():
        after = at + 5 + 2 * jpeg[at + 4] if at + 4 < len(jpeg) else len(jpeg)
        if after + 3 > len(jpeg):
            break
        first, last, bits = jpeg[after : after + 3]
        if not bits & 15:  # none are left for a later scan
            lacking -= {
                (component, place) for component in jpeg[at + 5 : after : 2] for place in range(first, last + 1)
            }
    return not lacking


def _scans(jpeg: bytes, start: int) -> Iterator[int]:
    """Yield where the scans of the first picture are that begin at ``start`` or later."""
    values = np.frombuffer(jpeg, np.uint8, offset=start)
    places = np.flatnonzero(values[:-1] == 0xFF)
    markers = values[places + 1]
    for at in places[(markers == _SOS) | (markers == _EOI[1])].tolist():
        if values[at + 1] == _EOI[1]:
            return
        yield start + at


def _mended_png(data: bytes) -> Mended:
    found, kept, text, at = Mended(data), [data[:8]], 0, len(_PNG)
    ended = is_changed = False
    while not ended and at + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            # all pixels come before a cut-off chunk that they don't need
            data = data[:at] if name[0] & _ANCILLARY else data
            break
        is_needed = not name[0] & _ANCILLARY and (name != b"PLTE" or data[_COLOUR_TYPE] == _INDEXED) and name != _IEND
        body = b"" if is_needed or name in _ANIMATION else data[at + 8 : end - 4]
        flaw = None if is_needed else _flaw(name, body, data[end - 4 : end], data[_COLOUR_TYPE])
        if flaw is None and name in _TEXTS:
            text += _text_size(name, body, _MAX_TEXT - text)
            flaw = Blemish.LONG_TEXT if text > _MAX_TEXT else None
        if flaw is not None:
            found.blemishes.add(flaw)
        elif name not in _ANIMATION:
            kept.append(data[at:end])
            _note(found, name, body)
        is_changed |= flaw is not None or name in _ANIMATION
        ended, at = name == _IEND, end
    rest = data[at:]
    if not ended:
        found.blemishes.add(Blemish.END)
    elif rest.strip(b"\0\r\n "):
        found.blemishes.add(Blemish.TRAILING)
    if is_changed or not ended:
        found.data = b"".join(kept) + rest
    return found


def _note(found: Mended, name: bytes, body: bytes) -> None:
    """Keep what a chunk says that Pillow does not read."""
    if name == b"sBIT":
        found.bits = min(body)
    elif name == b"cICP":
        found.code_points = (body[0], body[1])
    elif name == PNG_EXIF:
        found.texts.setdefault(name, body)
    elif name in _TEXTS and (keyword := body.partition(b"\0")[0]) in PNG_TEXTS:
        # also of those after the pixels, which Pillow reads too late
        text, is_packed = _text(name, body)
        found.texts.setdefault(keyword, _unpacked(text, _MAX_TEXT) if is_packed else text)


def _flaw(name: bytes, body: bytes, checksum: bytes, colour_type: bytes) -> Blemish | None:
    """Return what is wrong with a chunk that pixels don't need."""
    if name in _ANIMATION:
        return None
    shortest = _TRANSPARENT.get(colour_type, 0) if name == b"tRNS" else _SHORTEST.get(name, 0)
    if zlib.crc32(body, zlib.crc32(name)) != int.from_bytes(checksum, "big") or len(body) < shortest:
        return Blemish.METADATA
    if name == b"tRNS" and colour_type == _INDEXED and len(body) > _COLOURS:
        return Blemish.METADATA
    if name in (b"zTXt", b"iCCP"):
        _, separator, packed = body.partition(b"\0")
        is_faulty = not separator or packed[:1] != b"\0"  # a name, then the only method of compression
        if name == b"zTXt":
            return Blemish.METADATA if is_faulty else None
        if is_faulty or not 0 < len(_unpacked(packed[1:], MAX_PROFILE)) <= MAX_PROFILE:
            return Blemish.PROFILE
    return None


def _text_size(name: bytes, body: bytes, room: int) -> int:
    """Return the length of a chunk's text, or a number above ``room`` if it is longer than that."""
    text, is_packed = _text(name, body)
    if len(body) > room or not is_packed:
        return len(body)
    return len(_unpacked(text, room)) or len(body)


def _text(name: bytes, body: bytes) -> tuple[bytes, bool]:
    """Return the text of a chunk, and whether it is packed."""
    rest = body.partition(b"\0")[2]
    if name == b"iTXt":
        # the method, the language and the translated keyword come before the text
        return rest[2:].split(b"\0", 2)[-1], rest[:1] == b"\1"
    return (rest, False) if name == b"tEXt" else (rest[1:], True)


def _unpacked(packed: bytes, limit: int) -> bytes:
    """Return the unpacked bytes, up to one more than ``limit``; none if they are not packed right."""
    try:
        return zlib.decompressobj().decompress(packed, limit + 1)
    except zlib.error:
        return b""


def _mended_jpeg(data: bytes) -> Mended:
    padding = data[-_SEARCHED:].rstrip(b"\0\xff\r\n ")
    start = None if padding.endswith(_EOI) else _scan_start(data)
    if start is None:
        return Mended(data)
    # inside the scans, this pair of bytes is nothing but the end marker
    end = data.find(_EOI, start.scan)
    if end < 0:
        return Mended(data.removesuffix(b"\xff") + _EOI, {Blemish.END})
    rest = data[end + 2 :].lstrip(b"\0\xff\r\n ")
    # MPO: further pictures follow
    return Mended(data, {Blemish.TRAILING} if rest and not rest.startswith(b"\xd8\xff") else set())


@dataclass(frozen=True, slots=True)
class _Header:
    scan: int  # where the marker of the first scan is
    progressive: bytes  # the identifiers of the components of a progressive picture


def _scan_start(data: bytes) -> _Header | None:
    """Return where the first scan of a JPEG begins; metadata, which can hold a whole thumbnail, comes before it."""
    components = b""
    for marker, at, end in segments(data):
        if marker in _PROGRESSIVE:
            components = data[at + 10 : end : 3]
        if marker == _SOS:
            return _Header(at, components)
    return None


def unread_kind(data: bytes) -> str | None:
    """Return what a JPEG or PNG is that is of a kind that no decoder here reads; None for others."""
    if data.startswith(_APPLES, len(_PNG) + 4):
        return "a PNG in a form of Apple's own (CgBI), as it lies in apps"
    for marker, at, _ in segments(data) if data.startswith(_JPEG) else ():
        if marker == _JPEG_LS:
            return "a JPEG-LS picture"
        if marker in _LOSSLESS:
            return "a lossless or hierarchical JPEG"
        if marker in _FRAMES and data[at + 4 : at + 5] not in (b"\x08", b""):
            return f"a JPEG of {data[at + 4]} bits a sample"
    return None


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the marker of each segment of a JPEG up to its first scan, where it is, and where the segment ends."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF or marker in _MARKERS_ALONE:
            at += 1 if marker == 0xFF else 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield marker, at, end
        if marker == _SOS:
            return
        at = end
