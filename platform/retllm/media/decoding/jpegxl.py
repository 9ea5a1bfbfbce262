"""Read JPEG XL (ISO/IEC 18181)."""

from __future__ import annotations

from collections.abc import Iterator

from PIL import Image

from retllm.media.decoding.facts import Refused, Source
from retllm.media.decoding.texts import TIFFS, Texts, texts_in

_CONTAINER = b"\0\0\0\x0cJXL "
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_LONGEST_HEADER = 16  # bytes of the codestream that the size is in
_SIDE_BITS = (9, 13, 18, 30)


def read(data: bytes, max_pixels: int) -> Source | bytes:
    """Decode the first frame, upright; or return the JPEG that was packed without loss.

    Raises:
        Refused: more than ``max_pixels`` pixels.
    """
    from pillow_jxl import Decoder

    width, height = size(data)
    if width * height > max_pixels:
        # the library has no limit of its own and decodes at once
        raise Refused("pixels", width=width, height=height)
    is_jpeg, info, pixels, profile, _ = Decoder(num_threads=0)(data)
    if is_jpeg:
        return bytes(pixels)
    if info.mode == "F;16":
        raise Refused("unsupported", reason="a JPEG XL picture of 16-bit floats")
    picture = Image.frombytes(info.mode, (info.width, info.height), pixels)
    if profile:
        picture.info["icc_profile"] = bytes(profile)
    # the picture has no EXIF: the codestream has the orientation, and the library has applied it
    return Source(picture, "JXL", texts=_texts(data))


def _texts(data: bytes) -> Texts:
    """Return what the boxes beside the codestream say; those that are compressed are not read."""
    found: dict[str, bytes] = {}
    for name, start, end in _boxes(data) if data.startswith(_CONTAINER) else ():
        if name == b"xml ":
            found.setdefault("xmp", data[start:end])
        elif name == b"Exif":
            # the distance of the TIFF comes first, which some programs leave out
            is_there = data[start : start + 4] in TIFFS
            begin = start if is_there else start + 4 + int.from_bytes(data[start : start + 4], "big")
            found.setdefault("exif", data[begin:end])
    return texts_in(**found)


def size(data: bytes) -> tuple[int, int]:
    """Return width and height by the header.

    Raises:
        ValueError: there is no header.
    """
    head = data[:_LONGEST_HEADER]
    if data.startswith(_CONTAINER):
        head = b"".join(_codestream(data))[:_LONGEST_HEADER]
    if head[:2] != b"\xff\x0a":
        raise ValueError("no header of JPEG XL")
    bits = _Bits(head[2:])
    small = bits.take(1)
    height = bits.side(small)
    ratio = bits.take(3)
    if not ratio:
        return bits.side(small), height
    numerator, denominator = _RATIOS[ratio - 1]
    return height * numerator // denominator, height


def _codestream(data: bytes) -> Iterator[bytes]:
    """Yield the beginning of the codestream out of the container's boxes."""
    found = 0
    for name, start, end in _boxes(data):
        if name in (b"jxlc", b"jxlp"):
            begin = start + (4 if name == b"jxlp" else 0)  # the number of the part
            part = data[begin : min(end, begin + _LONGEST_HEADER)]
            found += len(part)
            yield part
        if found >= _LONGEST_HEADER:
            return


def _boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name of each box of the container, and where its content begins and ends."""
    at = 0
    while at + 8 <= len(data):
        length, name, start = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], at + 8
        if length == 1:
            length, start = int.from_bytes(data[start : start + 8], "big"), start + 8
        end = at + length if length else len(data)
        if end < start:
            return
        yield name, start, min(end, len(data))
        at = end


class _Bits:
    """Reads numbers, lowest bit first."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "little")

    def take(self, count: int) -> int:
        number = self._value & ((1 << count) - 1)
        self._value >>= count
        return number

    def side(self, small: int) -> int:
        if small:
            return (self.take(5) + 1) * 8
        return self.take(_SIDE_BITS[self.take(2)]) + 1
