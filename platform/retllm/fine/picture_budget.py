"""The picture budget: the maximum number of tokens of one picture, whatever its size.

Some processors make thousands of visual tokens of a large photograph. So the processor's limits are lowered to the
budget when the model is loaded; where they are not enough, the picture is made smaller before it is processed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from typing import Any

from PIL import Image

from retllm.errors import ModelUnsuited
from retllm.fine.cropping import crop_long
from retllm.fine.padding import Canvas, Size, find_canvas
from retllm.fine.pixels import REFUSALS

_LONG = 6000


def _probes(*ratios: float) -> tuple[Size, ...]:
    """Return sizes of large pictures with these ratios, in landscape and portrait format."""
    short = [round(_LONG / ratio) for ratio in ratios]
    return tuple(size for side in short for size in ((_LONG, side), (side, _LONG)))


#: shapes that must fit into the budget with every scorer
_COMMON = _probes(1, 4 / 3, 3 / 2, 16 / 9, 2)
#: adds the shapes that use the longest grids of tiles
_PROBES = (*_COMMON, *_probes(3, 4, 6, 12))

#: used if each check requires a run of the processor
_FEW: tuple[Size, ...] = ((640, 640), (640, 320), (320, 640))

#: ratio of the sides above which a picture may be refused
_STRIP = 20

#: the numbers of tokens that Gemma 4 supports
_SOFT_TOKENS = (1120, 560, 280, 140, 70)


class _NeedsMore(ValueError):
    """The model makes ``least`` tokens or more of a picture, which is above the budget."""

    def __init__(self, message: str, least: int) -> None:
        super().__init__(message)
        self.least = least


class PictureBudget:
    """Limits the number of tokens that a processor makes of a picture.

    The constructor lowers the limits of the processor, and the settings of the model's configuration that must equal
    them.

    Args:
        model: its name, for messages.
        processor: of an image-text-to-text model.
        images: its image processor.
        config: of the model.
        tokens: maximum number of tokens of one picture.
        measure: counts the visual tokens of a picture of a size by running the processor; used if the processor has
            no method for it.
        at_least: whether the maximum becomes what the model needs for a picture of any size, if that is more.

    Raises:
        ModelUnsuited: the model needs more tokens for a picture of any size.
    """

    def __init__(
        self,
        model: str,
        processor: Any,
        images: Any,
        config: Any,
        tokens: int,
        measure: Callable[[Size], int],
        at_least: bool = False,
    ) -> None:
        self.tokens = tokens
        self._least = 1
        self._model = model
        self._processor = processor
        self._measure = measure
        self._count = _counting(processor, images)
        shorter = getattr(getattr(images, "size", None), "shortest_edge", None)
        # LLaVA-NeXT has these settings too, but takes tiles of the whole picture
        tiles = hasattr(images, "image_grid_pinpoints")
        self._crops = bool(getattr(images, "do_center_crop", False) and shorter and not tiles)
        # one call of the processor for each size; the pictures of a collection have few different sizes
        self._fitting = lru_cache(maxsize=4096)(self._find_fitting)
        self._canvas = lru_cache(maxsize=4096)(self._find_canvas)
        self._lower(images, config)
        for size in _COMMON if self._count else _FEW:
            try:
                self._find_fitting(size)
            except ValueError as error:
                if not at_least or not isinstance(error, _NeedsMore):
                    raise ModelUnsuited(str(error), model=model) from error
                self.tokens = error.least

    def count(self, size: Size) -> int:
        """Return the number of tokens of a picture of this size.

        Raises:
            ValueError: the processor rejects pictures of this size.
        """
        return self._measure(size) if self._count is None else self._count(size)

    def most(self) -> int:
        """Return the largest number of tokens of a picture, whatever its size, up to a ratio of its sides of 12."""
        counts = []
        for size in _PROBES if self._count else _FEW:
            with suppress(ValueError):
                counts.append(self.count(self._fitting(size)))
        return max(counts)

    def refuse_smallest(self) -> None:
        """Pad the pictures that have as few tokens as a picture of one pixel, since the model does not take them."""
        self._least = self.count(self._fitting((1, 1))) + 1
        self._canvas.cache_clear()

    def canvas(self, size: Size) -> Canvas:
        """Return where to show a picture of this size: the model may take it only on a larger canvas."""
        return self._canvas(size)

    def _find_canvas(self, size: Size) -> Canvas:
        # scaled to its shorter side and cropped, a picture of any shape becomes the same square
        return Canvas(size, size) if self._crops else find_canvas(size, self._takes)

    def _takes(self, size: Size) -> bool:
        try:
            fitting = self._fitting(size)
            if self.count(fitting) < self._least:
                return False
            if max(fitting) > _STRIP * min(fitting):
                # some processors count the tokens of strips that they then refuse
                self._measure(fitting)
        except REFUSALS:
            return False
        return True

    def fit(self, picture: Image.Image) -> Image.Image:
        """Return the picture, made smaller if it exceeds the budget.

        Raises:
            ValueError: it exceeds the budget at every size.
        """
        if self._crops:
            picture = crop_long(picture)
        size = self._fitting(picture.size)
        return picture if size == picture.size else picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)

    def _find_fitting(self, size: Size) -> Size:
        least = count = self.count(size)
        found = size
        while count > self.tokens:
            least = min(least, count)
            # slightly less than proportional to the area, since sides are rounded up
            scale = min(0.9, 0.98 * math.sqrt(self.tokens / count))
            found = math.floor(found[0] * scale), math.floor(found[1] * scale)
            try:
                count = self.count(found) if all(found) else 0
            except ValueError:
                count = 0
            if not count:
                raise _NeedsMore(
                    f"{self._model} makes {least:,} tokens or more of a picture of {size[0]} × {size[1]} pixels, but "
                    f"RETLLM_PICTURE_TOKENS allows {self.tokens:,}: set it to {least} or more, or use another scorer.",
                    least,
                )
        return found

    def _lower(self, images: Any, config: Any) -> None:
        """Lower the setting with which this family's image processor limits a picture; :meth:`fit` does the rest."""
        if hasattr(images, "do_pan_and_scan"):
            # Gemma 3 would add crops of the picture, and does not count their tokens
            images.do_pan_and_scan = False
        if self._count is None:
            return
        steps = self._steps(images, config)
        while not self._holds() and next(steps, None):
            pass

    def _holds(self) -> bool:
        """Return whether the processor's settings keep pictures of all shapes within the budget."""
        for size in _PROBES:
            try:
                if self.count(size) > self.tokens:
                    return False
            except ValueError:
                # the processor rejects pictures of this shape
                continue
        return True

    def _steps(self, images: Any, config: Any) -> Iterator[bool]:
        """Lower the image processor's limit with each step, from the largest pictures to the smallest."""
        size = dict(getattr(images, "size", None) or {})
        if getattr(images, "image_grid_pinpoints", None):
            yield from _fewer_pinpoints(images, config)
        elif getattr(images, "max_patches", None):
            for tiles in range(images.max_patches - 1, 0, -1):
                images.max_patches, images.min_patches = tiles, min(images.min_patches, tiles)
                yield True
        elif getattr(images, "max_soft_tokens", None):
            for count in (count for count in _SOFT_TOKENS if count < images.max_soft_tokens):
                images.max_soft_tokens = count
                yield True
        elif getattr(images, "merge_size", None) and {"shortest_edge", "longest_edge"} <= size.keys():
            # both are areas, in spite of their names; GLM's are of two frames, and a picture counts as two
            for frames in (images.temporal_patch_size, 1):
                area = min(size["longest_edge"], self.tokens * (images.patch_size * images.merge_size) ** 2 * frames)
                _set_size(images, {"longest_edge": area, "shortest_edge": min(size["shortest_edge"], area)})
                yield True
        elif "longest_edge" in size and (unit := self._unit(images)):
            for units in range((size["longest_edge"] - 1) // unit, 0, -1):
                _set_size(images, {**size, "longest_edge": units * unit})
                yield True

    def _unit(self, images: Any) -> int:
        """Return the side in pixels of a tile (Idefics 3, SmolVLM) or of a token (Mistral 3); 0 if there is neither."""
        tile = dict(getattr(images, "max_image_size", None) or {}).get("longest_edge")
        patch, merge = (
            getattr(self._processor, "patch_size", None),
            getattr(self._processor, "spatial_merge_size", None),
        )
        return int(tile or (patch or 0) * (merge or 0))


def _counting(processor: Any, images: Any) -> Callable[[Size], int] | None:
    """Return a function that counts the tokens of a picture by its size; None if the processor has no such method."""
    each: int | None = getattr(processor, "image_seq_len", None) or getattr(processor, "image_seq_length", None)
    if each and hasattr(images, "get_number_of_image_patches"):

        def of_tiles(size: Size) -> int:
            tiles = images.get_number_of_image_patches(size[1], size[0])
            # Idefics 3 and SmolVLM also return rows and columns, and 0 for a picture of a single tile
            return each * int(max(1, tiles[0] if isinstance(tiles, tuple) else tiles))

        return of_tiles
    if hasattr(processor, "_get_num_multimodal_tokens"):
        return lambda size: int(
            processor._get_num_multimodal_tokens(image_sizes=[(size[1], size[0])])["num_image_tokens"][0]
        )
    return None


def _set_size(images: Any, size: dict[str, int]) -> None:
    images.size = type(images.size)(**size)


def _fewer_pinpoints(images: Any, config: Any) -> Iterator[bool]:
    """Remove the largest grid of tiles (LLaVA-NeXT, LLaVA-OneVision) with each step, down to a single tile."""
    grids = sorted((list(grid) for grid in images.image_grid_pinpoints), key=math.prod)
    tile = min(min(grid) for grid in grids)
    while grids and grids != [[tile, tile]]:
        grids = grids[:-1] or [[tile, tile]]
        # the model computes the number of tiles from the list in its configuration
        images.image_grid_pinpoints = config.image_grid_pinpoints = grids
        yield True
