"""How the items of a collection are laid out: in rows of one height, each picture in its own proportions."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from retllm_web.actions.item_views import ItemView

# collections.css has a class for each shape
_NARROWEST, _WIDEST = 40, 350
_FINE, _FINE_UNTIL, _COARSE = 5, 200, 25
_CARD = 100


class Size(StrEnum):
    """How high the rows are."""

    SMALL = "s"
    MEDIUM = "m"
    LARGE = "l"


def shape(item: ItemView) -> int:
    """Return about how many percent of its height the width of an item is, so that its place is reserved.

    A picture that is narrower or wider than all shapes is shown smaller in the last of them.
    """
    if not (item.has_picture and item.width and item.height):
        return _CARD
    percent = 100 * item.width / item.height
    step = _FINE if percent < _FINE_UNTIL else _COARSE
    return max(_NARROWEST, min(_WIDEST, round(percent / step) * step))


def rendering(item: ItemView, size: Size, thumbnail_side: int) -> Literal["thumbnail", "rendition"]:
    """Return which of an item's pictures has enough pixels for rows of this size."""
    is_larger = max(item.width or 0, item.height or 0) > thumbnail_side
    return "rendition" if size is Size.LARGE and is_larger else "thumbnail"
