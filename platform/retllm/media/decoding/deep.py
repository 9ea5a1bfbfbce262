"""Colours of 16 bits a sample, of which Pillow keeps the higher byte: read both where the lower one matters.

Fewer bits in 16 leave the higher byte dark, and a transparent colour is named with all its bits.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

from retllm.media.decoding import tones
from retllm.media.decoding.facts import Source

_MODES = ("RGB;16", "RGBX;16", "RGBA;16", "R;16")  # raw modes without their byte order
_COLOURS = 3
_BITS_PER_SAMPLE, _PLANAR = 258, 284
_SEPARATE = 2
_SWAPPED = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
_UNUSED = 4  # higher bits that are zero in 12 bits of 16


def is_deep(picture: ImageFile.ImageFile) -> bool:
    """Whether an opened picture, not yet decoded, has colours of 16 bits."""
    if getattr(picture, "tag_v2", {}).get(_PLANAR) == _SEPARATE and picture.tile[0].codec_name == "libtiff":
        return False  # libtiff's decoder ignores the raw mode then
    return any(_raw_mode(tile)[:-1] in _MODES for tile in picture.tile)


def mend_tiles(picture: TiffImagePlugin.TiffImageFile) -> None:
    """Correct how Pillow reads samples of more than 8 bits of a TIFF.

    It takes planes of 16 bits that are not compressed for planes of 8 bits, and does not expect that libtiff returns
    signed and larger samples in the byte order of this machine.
    """
    tags: Any = picture.tag_v2
    deep = set(tags.get(_BITS_PER_SAMPLE, ())) == {16}
    order = "L" if tags.prefix == b"II" else "B"
    for place, tile in enumerate(picture.tile):
        mode = _raw_mode(tile)
        if tile.codec_name == "raw" and deep and len(mode) == 1:
            picture.tile[place] = _with_raw_mode(tile, f"{mode};16{order}")
        elif tile.codec_name == "libtiff" and mode.startswith(("I;", "F;")):
            picture.tile[place] = _with_raw_mode(tile, mode.replace("B", "N"))


def shown(source: Source) -> Image.Image:
    """Return the decoded picture with all levels from black to white; itself if its higher bytes have them.

    The range of the values is that of :func:`retllm.media.decoding.tones.integer_range`.
    """
    picture = source.picture
    if source.again is None:
        return picture
    transparent = picture.info.get("transparency")
    transparent = transparent if isinstance(transparent, tuple) and len(transparent) == _COLOURS else None
    extrema: Any = picture.getextrema()
    # opacity in the whole range says that the colours have it too
    is_dark = max(high for _, high in extrema) < 256 >> _UNUSED
    if not (transparent or is_dark or source.bits or tones.declares_range(getattr(picture, "tag_v2", {}))):
        return picture
    with source.again() as lower:
        lower.tile = [_with_raw_mode(tile, _swapped(_raw_mode(tile))) for tile in lower.tile]
        lower.load()
        return _merged(source, lower, transparent)


def _merged(source: Source, lower: Image.Image, transparent: tuple[int, ...] | None) -> Image.Image:
    picture, tags = source.picture, getattr(source.picture, "tag_v2", {})
    bands = [_values(picture, lower, name) for name in picture.getbands()]
    colours = bands[:_COLOURS]
    low, high = min(int(band.min()) for band in colours), max(int(band.max()) for band in colours)
    levels = _levels(*tones.integer_range(low, high, tags, source.bits))
    made = [Image.fromarray(levels[band]) for band in colours]
    if transparent is not None:
        clear = np.logical_and.reduce([band == value for band, value in zip(colours, transparent, strict=True)])
        made.append(Image.fromarray(np.where(clear, np.uint8(0), np.uint8(255))))
    elif len(bands) > len(colours):
        made.append(Image.fromarray(_levels(*tones.integer_range(0, int(bands[3].max()), {}, None))[bands[3]]))
    merged = Image.merge("RGBA" if len(made) > len(colours) else "RGB", made)
    merged.info = {name: value for name, value in picture.info.items() if name != "transparency"}
    return merged


def _values(higher: Image.Image, lower: Image.Image, band: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint16]]:
    values = np.asarray(higher.getchannel(band)).astype(np.uint16)
    values <<= np.uint16(8)
    values |= np.asarray(lower.getchannel(band))
    return values


def _levels(black: float, white: float) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return the gray level of each value of 16 bits."""
    scaled = (np.arange(65536) - black) * (255 / (white - black))
    return np.asarray(np.clip(np.rint(scaled), 0, 255), dtype=np.uint8)


def _raw_mode(tile: Any) -> str:
    mode = tile.args if isinstance(tile.args, str) else tile.args[0] if tile.args else ""
    return mode if isinstance(mode, str) else ""


def _with_raw_mode(tile: Any, mode: str) -> Any:
    return tile._replace(args=mode if isinstance(tile.args, str) else (mode, *tile.args[1:]))


def _swapped(mode: str) -> str:
    return mode[:-1] + _SWAPPED[mode[-1]]
