"""Pads pictures whose shape a model does not take: strips of pixels, and pictures of a few pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

Size = tuple[int, int]
"""Width and height in pixels."""

GREY = (128, 128, 128)
"""The colour of the added area: as far from black as from white."""

#: longest side of a picture that is padded; a longer one is first made smaller, since its canvas could take gigabytes
_LONGEST = 16_384

#: maximum number of pixels of a canvas: 96 MiB
_MOST_PIXELS = 1 << 25

#: no model needs a picture of a few pixels to be larger than this
_TINY = 1024


@dataclass(frozen=True, slots=True)
class Canvas:
    """Where a picture is shown: its own size on the canvas, and the size of the canvas."""

    picture: Size
    size: Size

    def show(self, picture: Image.Image) -> Image.Image:
        """Return the picture in the middle of the canvas; the picture itself if it fills the canvas."""
        if picture.size != self.picture:
            picture = picture.resize(self.picture, Image.Resampling.BICUBIC, reducing_gap=3.0)
        if self.size == self.picture:
            return picture
        shown = Image.new("RGB", self.size, GREY)
        left, top = ((whole - part) // 2 for whole, part in zip(self.size, self.picture, strict=True))
        shown.paste(picture, (left, top))
        return shown


def find_canvas(size: Size, takes: Callable[[Size], bool]) -> Canvas:
    """Return the smallest canvas that a model takes, for a picture of this size.

    The canvas is higher or wider than the picture, or a square. If the model takes none, the picture is its canvas.

    Args:
        size: of the picture.
        takes: whether the model takes pictures of a size; called for this one, and for some of up to 32 megapixels.
    """
    if takes(size):
        return Canvas(size, size)
    inner = _within(size, _LONGEST)
    width, height = inner
    ways: tuple[tuple[int, Callable[[int], Size]], ...] = (
        (height, lambda side: (width, side)),
        (width, lambda side: (side, height)),
        (max(inner), lambda side: (side, side)),
    )
    most = max(_TINY, *inner)
    found = [canvas for least, grown in ways if (canvas := _smallest(least, most, grown, takes)) is not None]
    return Canvas(inner, min(found, key=math.prod)) if found else Canvas(size, size)


def _smallest(least: int, most: int, grown: Callable[[int], Size], takes: Callable[[Size], bool]) -> Size | None:
    """Return the smallest size that ``takes`` accepts, with a side from ``least`` to ``most``; None if there is none.

    What is accepted with one side is accepted with any longer one, up to the point that the search starts from.
    """
    low, high = least - 1, least
    while math.prod(grown(high)) > _MOST_PIXELS or not takes(grown(high)):
        if high >= most or math.prod(grown(high)) > _MOST_PIXELS:
            return None
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if takes(grown(middle)) else (middle, high)
    return grown(high)


def _within(size: Size, longest: int) -> Size:
    scale = min(1.0, longest / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
