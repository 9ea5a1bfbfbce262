"""Split a file into pictures one by one: the pages of a TIFF or a PDF, the key frames of a film."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

from PIL import Image

from retllm.media.decoding import films, pdf, tiff
from retllm.media.decoding.facts import MAX_REASON, Split
from retllm.media.decoding.opening import refusing

_QUALITY = 92
# what they need besides Pillow is imported for the first such file
_READERS = {"tiff": tiff.pages, "pdf": pdf.pages, "film": films.key_frames}


def split(request: Mapping[str, Any], data: bytes) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield facts and JPEG of each part.

    Raises:
        Refused: the file can't be split.
    """
    asked = Split(request["first"], request["most"], request["side"], request["max_pixels"])
    with refusing(asked.max_pixels):
        for part in _READERS[request["kind"]](data, asked):
            facts = {"page": part.page, "pages": part.pages, "seconds": part.seconds, "left_out": part.left_out}
            if part.picture is None:
                yield facts | {"reason": part.reason[:MAX_REASON]}, b""
                continue
            part.picture.thumbnail((asked.side, asked.side), Image.Resampling.LANCZOS, reducing_gap=2.0)
            target = io.BytesIO()
            part.picture.save(target, "JPEG", quality=_QUALITY, subsampling="4:4:4")
            width, height = part.picture.size
            yield facts | {"width": width, "height": height, "blemishes": sorted(part.blemishes)}, target.getvalue()
