"""Read HEIC and HEIF: pictures in HEVC, as phones store them."""

from __future__ import annotations

import io
import struct

from retllm.media.decoding.facts import Refused, Source
from retllm.media.decoding.texts import texts_of

_METADATA = 1 << 20  # bytes at the beginning of a file that the boxes of its pictures are in


def read(data: bytes, max_pixels: int) -> Source:
    """Decode the primary picture, upright.

    Raises:
        Refused: more than ``max_pixels`` pixels.
    """
    import pillow_heif

    pillow_heif.options.DECODE_THREADS = 1
    pillow_heif.options.THUMBNAILS = False
    pillow_heif.options.DEPTH_IMAGES = False
    pillow_heif.options.AUX_IMAGES = False
    picture = pillow_heif.HeifImageFile(io.BytesIO(data))  # type: ignore[no-untyped-call]
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


def code_points(data: bytes) -> tuple[int, int] | None:
    """Return primaries and transfer of the first colour box that has them (ISO/IEC 23008-12); None if there is none."""
    at = data.find(b"colrnclx", 0, _METADATA) + 8
    return struct.unpack_from(">HH", data, at) if 8 <= at <= len(data) - 4 else None


def _check(size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise Refused("pixels", width=size[0], height=size[1])
