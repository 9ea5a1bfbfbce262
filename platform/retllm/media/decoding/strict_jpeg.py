"""Decode JPEGs with a decoder that tells damage; Pillow drops what libjpeg says of it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from PIL import Image
from simplejpeg import decode_jpeg  # type: ignore[import-untyped]  # it has no types

from retllm.media.decoding.blemishes import segments, up_to_end

# Pillow's mode -> simplejpeg's name
_COLOURS = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
# libjpeg, jerror.h: what it says of bytes that are no coefficients
_DAMAGE = "Corrupt JPEG data"
_SURPLUS = re.compile(r"(\d+) extraneous bytes before marker 0x([0-9a-f]{2})")
_SEQUENTIAL, _DHT, _END, _SOS = (0xC0, 0xC1), 0xC4, 0xD9, 0xDA
_GAP = bytes(64)
_BETWEEN_SCANS = re.compile(rb"(?=\xff[\xc4\xda])")


class Damaged(Exception):
    """Coefficients are missing, left over or in no known code: the pixels after such a place may be wrong."""


def decoded(data: bytes, picture: Image.Image, least: tuple[int, int]) -> Image.Image | None:
    """Decode a JPEG that was opened as ``picture``; to between 1/8 and 7/8 of its size where that is enough.

    Args:
        data: the file, with an end marker.
        least: width and height in pixels, below which it is not scaled down.

    Returns:
        The picture (L or RGB); None if Pillow has to decode it: CMYK, and kinds that this decoder does not know.

    Raises:
        Damaged: as libjpeg notes it. An end marker after padding is sound, and so are bytes between the segments of the
            header and zeros after a scan that is whole without them.
    """
    colours = _COLOURS.get(picture.mode)
    if colours is None:
        return None
    is_shown = picture.mode != "CMYK"  # Pillow knows when its colours are inverted
    width, height = (min(size, few) if is_shown else 1 for size, few in zip(picture.size, least, strict=True))
    try:
        pixels = decode_jpeg(data, colours, min_width=width, min_height=height, strict=True)
    except ValueError as error:
        # the decoder stops at bytes that mean nothing, and would not tell what comes after them
        if _SURPLUS.search(str(error)) and (tidy := _tidy(data)) != data:
            return decoded(tidy, picture, least)
        if _is_damage(str(error), data):
            raise Damaged from error
        return None
    if _has_gap(data):
        raise Damaged
    if not is_shown:
        return None
    made = Image.fromarray(pixels if pixels.shape[2] > 1 else pixels[..., 0])
    made.info, made.format = picture.info, picture.format
    return made


def _tidy(data: bytes) -> bytes:
    """Return a JPEG without what lies between the segments of its header, and without zeros at the end of a scan."""
    at, kept = 2, [data[:2]]
    while (begin := data.find(b"\xff", at)) >= 0 and begin + 4 <= len(data):
        marker = data[begin + 1]
        if marker in (0, 0xFF):
            at = begin + 1
            continue
        at = begin + _length(data, begin)
        kept.append(data[begin:at])
        if marker == _SOS:
            break
    *scans, last = _BETWEEN_SCANS.split(data[at:])
    kept += [_without_zeros(scan, 0 if number == 0 else _length(scan, 0)) for number, scan in enumerate(scans)]
    return b"".join([*kept, last])


def _length(data: bytes, at: int) -> int:
    """Return the length of a segment with its marker."""
    return 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def _without_zeros(scan: bytes, header: int) -> bytes:
    """Return coefficients after a header of a length without zeros at their end; after 0xFF a zero is no filling."""
    end = max(len(scan.rstrip(b"\0")), header)
    return scan[: end + (end > header and scan[end - 1] == 0xFF)]


def _is_damage(said: str, data: bytes) -> bool:
    if not said.startswith(_DAMAGE):
        return False
    surplus = _SURPLUS.search(said)
    if surplus is None:
        return True
    count, marker = int(surplus[1]), int(surplus[2], 16)
    if marker != _END:
        # coefficients, since nothing is left over in the header of a tidy file
        return True
    # cameras that reserve more space than they need fill it with one value
    return len(set(up_to_end(data)[:-2].rstrip(b"\xff")[-count:])) > 1


def _has_gap(data: bytes) -> bool:
    """Whether zeros fill a place inside a JPEG with one sequential scan, where they can't stand for flat blocks.

    They do where the shortest code of each AC table (ITU-T T.81, annex C: zeros only) means the end of a block.
    """
    components, first = 0, set()
    for marker, at, end in segments(data):
        if marker in _SEQUENTIAL:
            components = data[at + 9]
        elif marker == _DHT:
            first |= set(_first_of_ac(data[at + 4 : end]))
        elif marker == _SOS and components and data[at + 4] == components and first - {0}:
            gap = data.find(_GAP, end)
            return gap >= 0 and data.find(bytes((0xFF, _END)), end, gap) < 0
    return False


def _first_of_ac(tables: bytes) -> Iterator[int]:
    """Yield what the first code of each AC table stands for."""
    while len(tables) > 17:
        if tables[0] >> 4:
            yield tables[17]
        tables = tables[17 + sum(tables[1:17]) :]
