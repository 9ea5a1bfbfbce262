"""Read HEIC and HEIF: pictures in HEVC, as phones store them."""

from __future__ import annotations

import io
import struct

from retllm.media.decoding.facts import Refused, Source
from retllm.media.decoding.texts import texts_of

_METADATA = 1 << 20  # bytes at the beginning of a file that the boxes of its pictures are in

_NO_BRANDS = 16  # bytes of a file's type without compatible brands


def read(data: bytes, max_pixels: int) -> Source:
    """Decode the primary picture, upright.

    Raises:
        Refused: more than ``max_pixels`` pixels, or a sequence without a still picture.
    """
    import pillow_heif

    if _has_box(data, b"moov") and not _has_box(data, b"meta"):
        raise Refused("unsupported", reason="a HEIF sequence without a still picture")

    pillow_heif.options.DECODE_THREADS = 1
    pillow_heif.options.THUMBNAILS = False
    pillow_heif.options.DEPTH_IMAGES = False
    pillow_heif.options.AUX_IMAGES = False
    picture = pillow_heif.HeifImageFile(io.BytesIO(_with_known_brand(data)))  # type: ignore[no-untyped-call]
    _check(picture.size, max_pixels)
    picture.load()  # type: ignore[no-untyped-call]
    # the coded size can differ from that in the header
    _check(picture.size, max_pixels)
    texts = texts_of(picture)
    # libheif has applied the file's own rotation, beside which neither EXIF nor XMP count
    for key in ("exif", "xmp"):
        picture.info.pop(key, None)
    points = None if "icc_profile" in picture.info else code_points(data)
    return Source(picture, "HEIF", texts=texts, code_points=points)


def as_avif(data: bytes) -> bytes | None:
    """Return a file whose pictures are in AV1 with the brand that Pillow expects; None if they are in another codec."""
    head = data[:_METADATA]
    if b"av1C" not in head or b"hvcC" in head:
        return None
    return data if data[8:12] in (b"avif", b"avis") else data[:8] + b"avif" + data[12:]


def _with_known_brand(data: bytes) -> bytes:
    """Return the file with brands of still pictures in HEVC, without which libheif refuses layers, views, sequences."""
    end = min(int.from_bytes(data[:4], "big"), len(data))
    count = max(end - _NO_BRANDS, 0) // 4
    if end == _NO_BRANDS and (moved := _with_room(data)) is not None:
        data, count = moved, 2
    if {b"heic", b"heix", b"mif1"} & {data[at : at + 4] for at in range(16, 16 + 4 * count, 4)}:
        return data
    return data[:8] + b"heic" + data[12:16] + (b"mif1" + b"heic" * count)[: 4 * count] + data[16 + 4 * count :]


def _with_room(data: bytes) -> bytes | None:
    """Return a file without brands with room for two; None if the box after its type can't be moved to its end.

    The data of pictures stays in its place, since it is found by that.
    """
    at, kind = _NO_BRANDS, data[_NO_BRANDS + 4 : _NO_BRANDS + 8]
    size = int.from_bytes(data[at : at + 4], "big")
    if kind == b"mdat" or not 16 <= size <= len(data) - at:
        return None
    free = struct.pack(">I4s", size - 8, b"free") + bytes(size - 16)
    return struct.pack(">I", at + 8) + data[4:at] + bytes(8) + free + data[at + size :] + data[at : at + size]


def _has_box(data: bytes, name: bytes) -> bool:
    """Return whether a box of this name is at the top level (ISO/IEC 14496-12, 4.2)."""
    at = 0
    while at + 8 <= len(data):
        if data[at + 4 : at + 8] == name:
            return True
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        if size < 8:
            return False
        at += size
    return False


def code_points(data: bytes) -> tuple[int, int] | None:
    """Return primaries and transfer of the first colour box that has them (ISO/IEC 23008-12); None if there is none."""
    at = data.find(b"colrnclx", 0, _METADATA) + 8
    return struct.unpack_from(">HH", data, at) if 8 <= at <= len(data) - 4 else None


def _check(size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise Refused("pixels", width=size[0], height=size[1])
