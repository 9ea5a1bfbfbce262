"""Scale pictures of more than 8 bits, integer or float, to the gray levels 0 to 255."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from PIL import Image

from retllm.media.decoding.facts import Source

_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_UNSIGNED, _SIGNED = 1, 2  # sample formats
# TIFF 6.0: (MinSampleValue, MaxSampleValue), (SMinSampleValue, SMaxSampleValue)
_DECLARED = ((340, 341), (280, 281))
_GDAL_NODATA = 42113
_WHITE_IS_ZERO = 0
# 16-bit files of 8, 10 or 12 significant bits rarely say so
_CONTAINED_BITS = (8, 10, 12)

Levels = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def has_more_bits(picture: Image.Image) -> bool:
    """Whether the picture has one channel of more than 8 bits, or of signed ones."""
    return picture.mode.startswith("I") or picture.mode == "F" or (picture.mode == "L" and _format(picture) == _SIGNED)


def to_gray(source: Source) -> Image.Image:
    """Return a picture for which :func:`has_more_bits` is true as 8-bit gray.

    The range of the values is what the file says, if all values are in it. Otherwise it depends on the values: that of
    the smallest of 8, 10, 12 and 16 bits that holds them, for floats 0 to 1 or 0 to 255, else from the lowest to the
    highest. Values that are no number or stand for missing data (GDAL) don't count, and become black.
    """
    tags: Any = getattr(source.picture, "tag_v2", {})
    values = _values(source.picture)
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


def _values(picture: Image.Image) -> Levels:
    values = np.asarray(picture)
    if picture.mode == "L":
        values = values.view(np.int8)
    elif picture.mode == "I" and _format(picture) == _UNSIGNED and values.dtype == np.int32:
        values = values.view(np.uint32)  # Pillow has no such mode
    return values.astype(np.float32)


def _format(picture: Image.Image) -> int | None:
    """Return the format of the samples of a TIFF; None for other files."""
    tags: Any = getattr(picture, "tag_v2", None)
    return None if tags is None else int(_number(tags.get(_SAMPLE_FORMAT)) or _UNSIGNED)


def declares_range(tags: Any) -> bool:
    """Whether the file may name the values of black and white."""
    return any(highest in tags for _, highest in _DECLARED)


def integer_range(low: float, high: float, tags: Any, bits: int | None) -> tuple[float, float]:
    """Return the values of black and white of integers of 16 bits between ``low`` and ``high``.

    Args:
        tags: of a TIFF.
        bits: significant bits of a sample, if the file says so.
    """
    return _declared(low, high, tags, 0) or (0.0, _integer_white(high, bits))


def _range(values: Levels, tags: Any, source: Source) -> tuple[float, float]:
    """Return the values of black and white."""
    low, high = float(values.min()), float(values.max())
    if source.picture.mode.startswith("I;16"):
        bits = source.bits or _number(tags.get(_BITS_PER_SAMPLE))
        return integer_range(low, high, tags, int(bits) if bits else None)
    if declared := _declared(low, high, tags, None):
        return declared
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    if low >= 0 and high <= 255:  # 8-bit values in a wider type
        return 0.0, 255.0
    return low, high


def _declared(low: float, high: float, tags: Any, default: int | None) -> tuple[float, float] | None:
    """Return the range that the tags name, if all values are in it; ``default`` is black if they name white only."""
    for lowest, highest in _DECLARED:
        black, white = _number(tags.get(lowest, default)), _number(tags.get(highest))
        if black is not None and white is not None and black <= low and high <= white and black < white:
            return black, white
    return None


def _integer_white(high: float, bits: int | None) -> float:
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
