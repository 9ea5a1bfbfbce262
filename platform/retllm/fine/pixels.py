"""What the image processor makes of pictures, made once for each picture of a call."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature

from retllm.fine.content import Picture
from retllm.logs import carried

_THREADS = 4

#: what image processors and Pillow raise for a picture that they can't take
REFUSALS = (ValueError, TypeError, RuntimeError, OSError, ZeroDivisionError, SyntaxError)

Fit = Callable[[Image.Image], Image.Image]
"""Makes a picture smaller where it would take more tokens than it may."""

Grids = Callable[[str], Tensor | None]
"""The ``image_grid_thw`` of a picture whose visual tokens are known by its key; None for one that is not."""


class PixelMemo:
    """Stands in for a processor's image processor and remembers its answers, by picture, within one call.

    Families whose answer for several pictures is the answers for each put together (those with ``image_grid_thw``)
    are asked one picture at a time, so that a query's picture shown beside many candidates is prepared once, and
    several pictures side by side. Of a picture whose visual tokens are known from an earlier call only the grid is
    told, with no pixels.
    """

    def __init__(self, image_processor: Any) -> None:
        self._wrapped = image_processor
        self._answers: dict[tuple[str, ...], Any] | None = None
        self._keys: dict[int, str] = {}
        # how the processor asks for one picture, learned from the first; it never changes
        self._options: dict[str, Any] | None = None
        self._no_pixels = torch.empty(0)
        self.grids: Grids = lambda _: None
        self.fit: Fit = lambda picture: picture

    def open(self) -> None:
        self._answers = {}

    def close(self) -> None:
        self._answers = None
        self._keys.clear()

    def shown(self, picture: Picture) -> Image.Image:
        """The picture for the processor's call; where its answer is known already, a stand-in."""
        key = picture.key
        known = (self._answers or {}).get((key,)) is not None or self._known_grid(key) is not None
        image = Image.new("RGB", (1, 1)) if known and self._options is not None else self.fit(picture.rgb())
        self._keys[id(image)] = key
        return image

    def done(self) -> None:
        """The images that :meth:`shown` gave are not used any more; their places in memory may be reused."""
        self._keys.clear()

    def ahead(self, pictures: Sequence[Picture]) -> None:
        """Prepare pictures side by side, before their pairs ask for them; what can't be taken is left to the pair."""
        if self._answers is None or self._options is None:
            return
        options, new = self._options, {}
        for picture in pictures:
            with suppress(*REFUSALS):
                if (picture.key,) not in self._answers and self._known_grid(picture.key) is None:
                    new[picture.key] = picture

        def ask(key: str, picture: Picture) -> None:
            with suppress(*REFUSALS):
                self._ask((key,), [[self.fit(picture.rgb())]], options)

        if len(new) > 1:
            with ThreadPoolExecutor(max_workers=min(_THREADS, os.cpu_count() or 1)) as pool:
                list(pool.map(carried(ask), new, new.values()))

    def keep_only(self, keys: set[str]) -> None:
        """Forget the pixels of every other picture."""
        self._answers = {known: answer for known, answer in (self._answers or {}).items() if set(known) <= keys}

    def single(self, key: str) -> Mapping[str, Tensor] | None:
        """What the image processor made of one picture by itself; None where it was not asked alone."""
        answer = (self._answers or {}).get((key,))
        return None if answer is None else dict(answer)

    def _known_grid(self, key: str) -> Tensor | None:
        # the first picture of all shows how the processor asks, and what an answer looks like
        return None if self._options is None else self.grids(key)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)

    def __call__(self, images: Any, **kwargs: Any) -> Any:
        flat = list(_flatten(images))
        keys = [self._keys.get(id(image)) for image in flat]
        if self._answers is None or None in keys:
            return self._wrapped(images, **kwargs)
        known = tuple(key for key in keys if key is not None)
        if len(flat) == 1:
            return self._ask(known, images, kwargs)
        first = self._ask(known[:1], [[flat[0]]], kwargs)
        if "image_grid_thw" not in first:
            return self._ask(known, images, kwargs)
        rest = [self._ask((key,), [[image]], kwargs) for key, image in zip(known[1:], flat[1:], strict=True)]
        answers = [first, *rest]
        return type(first)({name: torch.cat([torch.as_tensor(one[name]) for one in answers]) for name in first})

    def _ask(self, keys: tuple[str, ...], images: Any, kwargs: dict[str, Any]) -> Any:
        assert self._answers is not None
        if keys not in self._answers:
            grid = self._known_grid(keys[0]) if len(keys) == 1 else None
            if grid is not None:
                return BatchFeature({"pixel_values": self._no_pixels, "image_grid_thw": grid})
            self._answers[keys] = self._wrapped(images, **kwargs)
        answer = self._answers[keys]
        if len(keys) == 1 and "image_grid_thw" in answer:
            self._options, self._no_pixels = kwargs, torch.as_tensor(answer["pixel_values"])[:0]
        # processors take keys out of what they are given
        return type(answer)(dict(answer))


def _flatten(images: Any) -> Iterator[Any]:
    if isinstance(images, list | tuple):
        for image in images:
            yield from _flatten(image)
    else:
        yield images
