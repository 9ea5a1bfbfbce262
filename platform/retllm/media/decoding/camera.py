"""Read raw files of cameras: the preview that the camera made if it is large, otherwise the developed picture."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

from retllm.media.decoding import blemishes, previews
from retllm.media.decoding.facts import Refused
from retllm.media.decoding.previews import Preview

# a preview with a longer side of so many pixels shows as much as is ever looked at
_LARGE_PREVIEW = 1600
_SUBFILE, _PHOTOMETRIC, _MAKE, _SUB_IFDS, _DNG_VERSION = 254, 262, 271, 330, 50706
_CFA, _LINEAR_RAW = 32803, 34892  # photometric interpretations of TIFF/EP and DNG
_BY_TYPE = {
    "image/x-canon-cr3": "CR3",
    "image/x-canon-crw": "CRW",
    "image/x-fuji-raf": "RAF",
    "image/x-olympus-orf": "ORF",
    "image/x-panasonic-rw2": "RW2",
    "image/x-sigma-x3f": "X3F",
    "image/x-minolta-mrw": "MRW",
}
_BY_MAKER = {"NIKON": "NEF", "SONY": "ARW", "PENTAX": "PEF", "RICOH": "PEF", "SAMSUNG": "SRW"}


def raw_format(media_type: str | None, data: bytes) -> str | None:
    """Return the name of a camera's raw format by the type or the first bytes of its file; None if it is none."""
    if media_type in _BY_TYPE:
        return _BY_TYPE[media_type]
    return "CR2" if media_type == "image/tiff" and data[8:10] == b"CR" else None


def raw_format_of_tiff(tags: Any) -> str | None:
    """Return the name of a camera's raw format by the tags of a TIFF; None if it is a picture itself.

    The first picture of a raw file is a thumbnail, or values that are no colours yet.
    """
    if _DNG_VERSION in tags:
        return "DNG"
    subfile = tags.get(_SUBFILE, 0)
    is_thumbnail = isinstance(subfile, int) and subfile & 1 and _SUB_IFDS in tags
    if is_thumbnail or tags.get(_PHOTOMETRIC) in (_CFA, _LINEAR_RAW):
        maker = str(tags.get(_MAKE, "")).upper()
        return next((name for start, name in _BY_MAKER.items() if maker.startswith(start)), "RAW")
    return None


def read(data: bytes, raw_name: str, max_pixels: int) -> bytes | Preview | Image.Image:
    """Return the preview as a JPEG file (with EXIF orientation), or the developed picture, upright.

    Of a file that LibRaw can't read, it is the largest preview.

    Raises:
        Refused: more than ``max_pixels`` pixels, a file that LibRaw doesn't know and has no preview, or rawpy is not
            installed.
    """
    try:
        import rawpy
    except ImportError as error:
        raise Refused("extra", extra="raw", format=raw_name) from error
    try:
        with rawpy.imread(io.BytesIO(data)) as raw:
            size = (raw.sizes.width, raw.sizes.height)
            preview = _preview(rawpy, raw, max(size))
            if preview is not None:
                return preview
            if size[0] * size[1] > max_pixels:
                raise Refused("pixels", width=size[0], height=size[1])
            return _developed(rawpy, raw)
    except rawpy.LibRawError as error:
        if (found := previews.largest(data)) is not None:
            return found
        if isinstance(error, rawpy.LibRawFileUnsupportedError):
            reason = f"a {raw_name} picture of a camera that LibRaw does not know"
            raise Refused("unsupported", reason=reason) from error
        raise


def _preview(rawpy: Any, raw: Any, longer_side: int) -> bytes | None:
    try:
        thumb = raw.extract_thumb()
    except rawpy.LibRawError:  # none, or of a kind that is not read
        return None
    if thumb.format != rawpy.ThumbFormat.JPEG:
        return None
    try:
        with Image.open(io.BytesIO(thumb.data), formats=("JPEG", "MPO")) as picture:
            large = max(picture.size) >= min(_LARGE_PREVIEW, longer_side)
    except OSError:
        return None
    return bytes(thumb.data) if large and blemishes.is_readable(thumb.data) else None


def _developed(rawpy: Any, raw: Any) -> Image.Image:
    pixels = raw.postprocess(use_camera_wb=True, output_color=rawpy.ColorSpace.sRGB, output_bps=8)
    return Image.fromarray(pixels)
