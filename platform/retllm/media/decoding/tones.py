"""Scale pictures of more than 8 bits, integer or float, to the gray levels 0 to 255."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from PIL import Image

from retllm.media.decoding.facts import Source

_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262
# TIFF 6.0: (MinSampleValue, MaxSampleValue), (SMinSampleValue, SMaxSampleValue)
_DECLARED = ((340, 341), (280, 281))
_GDAL_NODATA = 42113
_WHITE_IS_ZERO = 0
# 16-bit files of 8, 10 or 12 significant bits rarely say so
_CONTAINED_BITS = (8, 10, 12)

Levels = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def has_more_bits(picture: Image.Image) -> bool:
    """Whether the picture has one channel of more than 8 bits."""
    return picture.mode.startswith("I") or picture.mode == "F"


def to_gray(source: Source) -> Image.Image:
    """Return a picture for which :func:`has_more_bits` is true as 8-bit gray.

    The range of the values is what the file says, if all values are in it. Otherwise it depends on the values: that of
    the smallest of 8, 10, 12 and 16 bits that holds them, for floats 0 to 1 or 0 to 255, else from the lowest to the
    highest. Values that are no number or stand for missing data (GDAL) don't count, and become black.
    """
    tags: Any = getattr(source.picture, "tag_v2", {})
    values = np.asarray(source.picture, dtype=np.float32)
    present = np.isfinite(values)
    if (missing := _missing(tags)) is not None:
        present &= values != missing
    if not present.any():
        return Image.new("L", source.picture.size)
    if not present.all():
        values = np.where(present, values, np.float32(np.min(values, where=present, initial=np.inf)))
    low, high = _range(values, tags, source)
    scale = 255 / (high - low) if high > low else 0.0
    levels = (values - np.float32(low)) * np.float32(scale)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        levels = 255 - levels
    levels = np.where(present, levels, np.float32(0))
    return Image.fromarray(np.clip(np.rint(levels), 0, 255).astype(np.uint8))


def _range(values: Levels, tags: Any, source: Source) -> tuple[float, float]:
    """Return the values of black and white."""
    low, high = float(values.min()), float(values.max())
    integers = source.picture.mode.startswith("I;16")
    for lowest, highest in _DECLARED:
        black, white = _number(tags.get(lowest, 0 if integers else None)), _number(tags.get(highest))
        if black is not None and white is not None and black <= low and high <= white and black < white:
            return black, white
    if integers:
        return 0.0, _integer_white(high, source.bits or _number(tags.get(_BITS_PER_SAMPLE)))
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    if low >= 0 and high <= 255:  # 8-bit values in a wider type
        return 0.0, 255.0
    return low, high


def _integer_white(high: float, bits: float | None) -> float:
    if bits is not None and bits < 16 and high < 2**bits:
        return float(2**bits - 1)
    return next((2.0**bits - 1 for bits in _CONTAINED_BITS if high < 2**bits), 65535.0)


def _missing(tags: Any) -> np.float32 | None:
    """Return the value that GDAL's tag says is used for missing data."""
    try:
        return np.float32(str(tags[_GDAL_NODATA]).strip("\0 "))
    except (KeyError, ValueError):
        return None


def _number(value: Any) -> float | None:
    """Return a tag's number, or that of its first channel."""
    first = value[0] if isinstance(value, tuple) and value else value
    try:
        number = float(first)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) else None
