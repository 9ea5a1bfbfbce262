"""Scale pictures of more than 8 bits, integer or float, to the gray levels 0 to 255."""

from __future__ import annotations

import math
from collections.abc import Sequence
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

Values = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Levels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


def has_more_bits(picture: Image.Image) -> bool:
    """Whether the picture has one channel of more than 8 bits, or of signed ones."""
    return picture.mode.startswith("I") or picture.mode == "F" or (picture.mode == "L" and _format(picture) == _SIGNED)


def to_gray(source: Source) -> Image.Image:
    """Return a picture for which :func:`has_more_bits` is true as 8-bit gray, scaled as by :func:`levels`."""
    picture, tags = source.picture, getattr(source.picture, "tag_v2", {})
    bits = source.bits or _number(tags.get(_BITS_PER_SAMPLE))
    is_word = bits is not None and bits <= 16 and _format(picture) == _UNSIGNED
    words = picture.mode.startswith("I;16") or (picture.mode == "F" and is_word)
    (gray,) = levels([_values(picture)], tags, words=words, bits=int(bits) if bits else None)
    return Image.fromarray(gray)


def levels(
    channels: Sequence[Any], tags: Any, *, words: bool, bits: int | None = None, least: float = 0.0
) -> list[Levels]:
    """Return the gray levels of channels that have one range together.

    The range of the values is what the file says, if all values are in it. Otherwise it depends on the values: that of
    the smallest of 8, 10, 12 and 16 bits that holds them, for others 0 to 1 or 0 to 255, else from the lowest to the
    highest. Values that are no number or stand for missing data (GDAL) don't count, and become black.

    Args:
        tags: of a TIFF.
        words: whether the values are integers of up to 16 bits.
        bits: significant bits of a word, if the file says so.
        least: a value of another channel that the range of words holds too.
    """
    masks = [_missing_places(values, tags) for values in channels]
    present = [v if mask is None else v[~mask] for v, mask in zip(channels, masks, strict=True)]
    present = [values for values in present if values.size]
    if not present:
        return [np.zeros(values.shape, np.uint8) for values in channels]
    low, high = min(float(values.min()) for values in present), max(float(values.max()) for values in present)
    del present
    if words:
        black, white = _declared(low, high, tags, 0) or (0.0, integer_white(max(high, least), bits))
    else:
        black, white = _declared(low, high, tags, None) or _usual(low, high)
    made = []
    for values, mask in zip(channels, masks, strict=True):
        gray = scaled(values if mask is None else np.where(mask, black, values), black, white)
        if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
            gray = ~gray
        if mask is not None:
            gray[mask] = 0
        made.append(gray)
    return made


def scaled(values: Any, black: float, white: float) -> Levels:
    """Return the gray levels of values; all are black if there is no range."""
    if values.dtype in (np.uint8, np.uint16):
        every: Levels = scaled(np.arange(np.iinfo(values.dtype).max + 1, dtype=np.float32), black, white)[values]
        return every
    scale = 255 / (white - black) if white > black else 0.0
    levels = (values.astype(np.float32) - np.float32(black)) * np.float32(scale)
    return np.asarray(np.clip(np.rint(levels), 0, 255), np.uint8)


def opaque(values: Any, bits: int | None = None) -> float:
    """Return the value of full opacity among values of opacity, of so many bits."""
    high = float(values.max())
    if values.dtype.kind == "f":
        return next((white for white in (1.0, 255.0) if high <= white), high)
    return integer_white(high, bits) if high < 1 << 16 else float(np.iinfo(values.dtype).max)


def _missing_places(values: Any, tags: Any) -> np.ndarray[tuple[int, ...], np.dtype[np.bool]] | None:
    """Return where values are no numbers or stand for missing data; None if there are no such."""
    missing = _missing(tags)
    if missing is None and values.dtype.kind != "f":
        return None
    places = ~np.isfinite(values)
    if missing is not None:
        places |= values == missing
    return places if places.any() else None


def _values(picture: Image.Image) -> Values:
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


def integer_white(high: float, bits: int | None) -> float:
    """Return the value of white of integers of 16 bits up to ``high``.

    Args:
        bits: significant bits of a sample, if the file says so.
    """
    if bits is not None and bits < 16 and high < 2**bits:
        return float(2**bits - 1)
    return next((2.0**bits - 1 for bits in _CONTAINED_BITS if high < 2**bits), 65535.0)


def _usual(low: float, high: float) -> tuple[float, float]:
    """Return the values of black and white where the file says nothing of them."""
    if low >= 0 and high <= 255:  # also 8-bit values in a wider type
        return 0.0, 1.0 if high <= 1 else 255.0
    return low, high


def _declared(low: float, high: float, tags: Any, default: int | None) -> tuple[float, float] | None:
    """Return the range that the tags name, if all values are in it; ``default`` is black if they name white only."""
    for lowest, highest in _DECLARED:
        black, white = _number(tags.get(lowest, default)), _number(tags.get(highest))
        if black is not None and white is not None and black <= low and high <= white and black < white:
            return black, white
    return None


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
