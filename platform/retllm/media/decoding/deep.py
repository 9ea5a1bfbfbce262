"""Colours of a PNG of 16 bits a sample, of which Pillow keeps the higher byte: read both where the lower one matters.

Fewer bits in 16 leave the higher byte dark, and a transparent colour is named with all its bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageFile

from retllm.media.decoding import tones
from retllm.media.decoding.facts import Source

_MODES = ("RGB;16", "RGBX;16", "RGBA;16", "R;16")  # raw modes without their byte order
_COLOURS = 3
_SWAPPED = {"L": "B", "B": "L"}
_UNUSED = 4  # higher bits that are zero in 12 bits of 16


def is_deep(picture: ImageFile.ImageFile) -> bool:
    """Whether an opened picture, not yet decoded, has colours of 16 bits."""
    return any(_raw_mode(tile)[:-1] in _MODES for tile in picture.tile)


def shown(source: Source) -> Image.Image:
    """Return the decoded picture with all levels from black to white; itself if its higher bytes have them.

    The range of the values is that of :func:`retllm.media.decoding.tones.integer_white`.
    """
    picture = source.picture
    if source.again is None:
        return picture
    transparent = picture.info.get("transparency")
    transparent = transparent if isinstance(transparent, tuple) and len(transparent) == _COLOURS else None
    extrema: Any = picture.getextrema()
    # opacity in the whole range says that the colours have it too
    is_dark = max(high for _, high in extrema) < 256 >> _UNUSED
    if not (transparent or is_dark or source.bits):
        return picture
    with source.again() as lower:
        lower.tile = [_with_raw_mode(tile, _swapped(_raw_mode(tile))) for tile in lower.tile]
        lower.load()
        return _merged(source, lower, transparent)


def _merged(source: Source, lower: Image.Image, transparent: tuple[int, ...] | None) -> Image.Image:
    picture = source.picture
    bands = [_values(picture, lower, name) for name in picture.getbands()]
    colours = bands[:_COLOURS]
    made = tones.levels(colours, {}, words=True, bits=source.bits)
    if transparent is not None:
        clear = np.logical_and.reduce([band == value for band, value in zip(colours, transparent, strict=True)])
        made.append(np.where(clear, np.uint8(0), np.uint8(255)))
    elif len(bands) > len(colours):
        made.append(tones.scaled(bands[3], 0, tones.opaque(bands[3])))
    merged = Image.merge("RGBA" if len(made) > len(colours) else "RGB", [Image.fromarray(band) for band in made])
    merged.info = {name: value for name, value in picture.info.items() if name != "transparency"}
    return merged


def _values(higher: Image.Image, lower: Image.Image, band: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint16]]:
    values = np.asarray(higher.getchannel(band)).astype(np.uint16)
    values <<= np.uint16(8)
    values |= np.asarray(lower.getchannel(band))
    return values


def _raw_mode(tile: Any) -> str:
    mode = tile.args if isinstance(tile.args, str) else tile.args[0] if tile.args else ""
    return mode if isinstance(mode, str) else ""


def _with_raw_mode(tile: Any, mode: str) -> Any:
    return tile._replace(args=mode if isinstance(tile.args, str) else (mode, *tile.args[1:]))


def _swapped(mode: str) -> str:
    return mode[:-1] + _SWAPPED[mode[-1]]
