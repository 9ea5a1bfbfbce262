"""Split a file into pictures one by one: the pages of a TIFF or a PDF, the key frames of a film."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from PIL import Image

from retllm.media.decoding import films, pdf, tiff
from retllm.media.decoding.facts import MAX_REASON, Split
from retllm.media.decoding.opening import refusing
from retllm.media.decoding.perceptual import perceptual_hash
from retllm.media.decoding.rendering import FILTER, copy_size, encoded, encoded_copy, resized

_QUALITY, _SMALL_QUALITY = 92, 80
# what they need besides Pillow is imported for the first such file
_READERS = {"tiff": tiff.pages, "pdf": pdf.pages, "film": films.key_frames}


def split(request: Mapping[str, Any], file: BinaryIO) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield facts of each part, and its payload: the picture (JPEG), its thumbnail and, if it needs one, its copy.

    Raises:
        Refused: the file can't be split.
    """
    asked = Split(request["first"], request["most"], request["side"], request["max_pixels"])
    with refusing(asked.max_pixels):
        for part in _READERS[request["kind"]](file, asked):
            facts: dict[str, Any] = {
                "page": part.page,
                "pages": part.pages,
                "seconds": part.seconds,
                "left_out": part.left_out,
            }
            if part.picture is None:
                yield facts | {"reason": part.reason[:MAX_REASON]}, b""
                continue
            part.picture.thumbnail((asked.side, asked.side), Image.Resampling.LANCZOS, reducing_gap=2.0)
            width, height = part.picture.size
            shown, copy, hashed = _smaller(part.picture, request)
            pieces = (encoded(part.picture, "JPEG", quality=_QUALITY, subsampling=0), shown, copy)
            facts |= {"width": width, "height": height, "blemishes": sorted(part.blemishes), "hash": hashed}
            yield facts | {"pieces": list(map(len, pieces))}, b"".join(pieces)


def _smaller(picture: Image.Image, request: Mapping[str, Any]) -> tuple[bytes, bytes, int]:
    """Return the files of thumbnail and working copy, which is empty if the picture needs none, and its hash."""
    wanted = copy_size(*picture.size, request["copy_side"])
    copy = b""
    if wanted != picture.size:
        picture = resized(picture, wanted)
        copy = encoded_copy(picture)
    small = picture.copy()
    small.thumbnail((request["small_side"], request["small_side"]), FILTER, reducing_gap=2.0)
    return encoded(small, "WEBP", quality=_SMALL_QUALITY, method=2), copy, perceptual_hash(small)
