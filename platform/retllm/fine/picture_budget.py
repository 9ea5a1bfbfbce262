"""The picture budget: how many tokens of a question one picture may take, whatever its size.

A processor that follows a photograph's own size makes thousands of visual tokens of it. So its settings are lowered
when the model is loaded, as far as the budget asks for it, and what they do not hold is held by making the picture
smaller before the processor sees it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from PIL import Image

from retllm.errors import ModelUnsuited

Size = tuple[int, int]
"""Width and height in pixels."""

_LONG = 6000


def _probes(*ratios: float) -> tuple[Size, ...]:
    """Large pictures of these ratios, lying and standing."""
    short = [round(_LONG / ratio) for ratio in ratios]
    return tuple(size for side in short for size in ((_LONG, side), (side, _LONG)))


#: shapes that every scorer must take within the budget
_COMMON = _probes(1, 4 / 3, 3 / 2, 16 / 9, 2)
#: with those that make the most of long grids of tiles
_PROBES = (*_COMMON, *_probes(3, 4, 6, 12))

#: enough to ask where each answer takes a run of the processor
_FEW: tuple[Size, ...] = ((640, 640), (640, 320), (320, 640))

#: Gemma 4 takes these numbers of tokens and no others
_SOFT_TOKENS = (1120, 560, 280, 140, 70)


class PictureBudget:
    """Holds a processor's pictures to a number of tokens.

    The constructor lowers the settings of the processor, and those of the model's configuration that must equal them.

    Args:
        model: its name, for messages.
        processor: of an image-text-to-text model.
        images: its image processor.
        config: of the model.
        tokens: most tokens that one picture may take.
        measure: counts the visual tokens of a picture of a size by running the processor, for one that can't tell.

    Raises:
        ModelUnsuited: the model takes more tokens for a picture, however small it is.
    """

    def __init__(
        self,
        model: str,
        processor: Any,
        images: Any,
        config: Any,
        tokens: int,
        measure: Callable[[Size], int],
    ) -> None:
        self.tokens = tokens
        self._model = model
        self._processor = processor
        self._measure = measure
        self._count = _counting(processor, images)
        # a processor is asked once for each size; the pictures of a collection share a few
        self._fitting = lru_cache(maxsize=4096)(self._find_fitting)
        self._lower(images, config)
        for size in _COMMON if self._count else _FEW:
            try:
                self._find_fitting(size)
            except ValueError as error:
                raise ModelUnsuited(str(error), model=model) from error

    def count(self, size: Size) -> int:
        """The tokens that a picture of this size takes, as the processor tells or shows.

        Raises:
            ValueError: the processor takes no such picture.
        """
        return self._measure(size) if self._count is None else self._count(size)

    def fit(self, picture: Image.Image) -> Image.Image:
        """The picture, made smaller where it would take more tokens than the budget.

        Raises:
            ValueError: it would, however small it is made.
        """
        size = self._fitting(picture.size)
        return picture if size == picture.size else picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)

    def _find_fitting(self, size: Size) -> Size:
        least = count = self.count(size)
        found = size
        while count > self.tokens:
            least = min(least, count)
            # a little less than the area that would do if tokens followed it, since sides are rounded up
            scale = min(0.9, 0.98 * math.sqrt(self.tokens / count))
            found = math.floor(found[0] * scale), math.floor(found[1] * scale)
            try:
                count = self.count(found) if all(found) else 0
            except ValueError:
                count = 0
            if not count:
                raise ValueError(
                    f"{self._model} makes {least:,} tokens or more of a picture of {size[0]} × {size[1]} pixels, but "
                    f"RETLLM_PICTURE_TOKENS allows {self.tokens:,}: set it to {least} or more, or use another scorer."
                )
        return found

    def _lower(self, images: Any, config: Any) -> None:
        """Lower the setting by which this family's image processor bounds a picture; :meth:`fit` does the rest."""
        if hasattr(images, "do_pan_and_scan"):
            # Gemma 3 would add crops to the whole picture, and counts only the whole
            images.do_pan_and_scan = False
        if self._count is None:
            return
        steps = self._steps(images, config)
        while not self._holds() and next(steps, None):
            pass

    def _holds(self) -> bool:
        """Whether the processor's own settings keep pictures of all shapes within the budget."""
        for size in _PROBES:
            try:
                if self.count(size) > self.tokens:
                    return False
            except ValueError:
                # no picture of this shape is taken at all
                continue
        return True

    def _steps(self, images: Any, config: Any) -> Iterator[bool]:
        """Set the image processor lower with each step, beginning with what keeps most of a picture."""
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
            # areas both, in spite of their names; GLM's are of two frames, which a picture counts as
            for frames in (images.temporal_patch_size, 1):
                area = min(size["longest_edge"], self.tokens * (images.patch_size * images.merge_size) ** 2 * frames)
                _set_size(images, {"longest_edge": area, "shortest_edge": min(size["shortest_edge"], area)})
                yield True
        elif "longest_edge" in size and (unit := self._unit(images)):
            for units in range((size["longest_edge"] - 1) // unit, 0, -1):
                _set_size(images, {**size, "longest_edge": units * unit})
                yield True

    def _unit(self, images: Any) -> int:
        """Pixels of the side of a tile (Idefics 3, SmolVLM) or of a token (Mistral 3); 0 where there is neither."""
        tile = dict(getattr(images, "max_image_size", None) or {}).get("longest_edge")
        patch, merge = (
            getattr(self._processor, "patch_size", None),
            getattr(self._processor, "spatial_merge_size", None),
        )
        return int(tile or (patch or 0) * (merge or 0))


def _counting(processor: Any, images: Any) -> Callable[[Size], int] | None:
    """How a processor tells the tokens of a picture of a size without one; None if it can't."""
    each: int | None = getattr(processor, "image_seq_len", None) or getattr(processor, "image_seq_length", None)
    if each and hasattr(images, "get_number_of_image_patches"):

        def of_tiles(size: Size) -> int:
            tiles = images.get_number_of_image_patches(size[1], size[0])
            # Idefics 3 and SmolVLM tell rows and columns too, and of a picture that is one tile that there is none
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
    """Leave out the largest grid of tiles (LLaVA-NeXT, LLaVA-OneVision) with each step; in the end one tile is left."""
    grids = sorted((list(grid) for grid in images.image_grid_pinpoints), key=math.prod)
    tile = min(min(grid) for grid in grids)
    while grids and grids != [[tile, tile]]:
        grids = grids[:-1] or [[tile, tile]]
        # the model computes the number of tiles from its own list
        images.image_grid_pinpoints = config.image_grid_pinpoints = grids
        yield True
