"""Run the image processor once for each picture of a call."""

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

from retllm.fine.content import Picture, PreparedPicture
from retllm.fine.padding import Canvas, Size
from retllm.logs import carried

_THREADS = 4

#: number of padded pictures whose sizes are kept: more than the caches hold, a few megabytes
_KEPT_CANVASES = 50_000

#: what image processors and Pillow raise for a picture that they can't process
REFUSALS = (ValueError, TypeError, RuntimeError, OSError, ZeroDivisionError, SyntaxError)

Fit = Callable[[Image.Image], Image.Image]
"""Makes a picture smaller if it exceeds the picture budget."""

Canvases = Callable[[Size], Canvas]
"""Returns where to show a picture of a size."""

Grids = Callable[[str], Tensor | None]
"""Returns the ``image_grid_thw`` of a picture by its key; None if its visual tokens are not cached."""


class PixelMemo:
    """Wraps the image processor and caches its output for each picture within one call.

    Families whose output for several pictures is the concatenation of the outputs for each (those with
    ``image_grid_thw``) process one picture at a time. So a query's picture that is shown with many candidates is
    prepared once, and several pictures are prepared in parallel. For a picture whose visual tokens are cached from an
    earlier call, the output is only the grid, without pixels.
    """

    def __init__(self, image_processor: Any) -> None:
        self._wrapped = image_processor
        self._answers: dict[tuple[str, ...], Any] | None = None
        self._keys: dict[int, str] = {}
        # the processor's keyword arguments for one picture, kept from the first call; they never change
        self._options: dict[str, Any] | None = None
        self._no_pixels = torch.empty(0)
        self.grids: Grids = lambda _: None
        self.fit: Fit = lambda picture: picture
        self.canvas: Canvases = lambda size: Canvas(size, size)
        self._padded: dict[str, Size] = {}

    def open(self) -> None:
        self._answers = {}

    def close(self) -> None:
        self._answers = None
        self._keys.clear()
        # a list: threads that prepare pictures for a later call add to it
        for key in list(self._padded)[:-_KEPT_CANVASES]:
            del self._padded[key]

    def padded(self, key: str) -> Size | None:
        """Return the size to which a picture seen in this or an earlier call was padded; None if it was not."""
        return self._padded.get(key)

    def _opened(self, picture: Picture) -> Image.Image:
        """Return the picture as the processor takes it: padded to a canvas, within the picture budget."""
        image = picture.rgb()
        canvas = self.canvas(image.size)
        if canvas.size != image.size:
            self._padded[picture.key] = canvas.size
        return self.fit(canvas.show(image))

    def prepared(self, picture: Picture) -> PreparedPicture:
        """Prepare a picture that is asked for later (:attr:`Picture.prepared`); safe beside a call in another thread.

        Raises:
            What opening the picture raises, and :data:`REFUSALS`.
        """
        image = self._opened(picture)
        if self._options is None:
            return PreparedPicture(image, None, 4 * image.width * image.height)
        inputs = self._wrapped([[image]], **self._options)
        return PreparedPicture(None, inputs, sum(torch.as_tensor(value).nbytes for value in inputs.values()))

    def shown(self, picture: Picture) -> Image.Image:
        """Return the picture to give to the processor; a placeholder if its output is known already."""
        key = picture.key
        known = (self._answers or {}).get((key,)) is not None or self._known_grid(key) is not None
        image = Image.new("RGB", (1, 1)) if known and self._options is not None else self._fetched(picture)
        self._keys[id(image)] = key
        return image

    def _fetched(self, picture: Picture) -> Image.Image:
        """Return a picture that was prepared before, or open it; a placeholder if the processor has run for it."""
        found = None if self._answers is None else picture.prepared()
        if found is None or self._answers is None:
            return self._opened(picture)
        if found.image is not None:
            return found.image
        self._answers[(picture.key,)] = found.inputs
        return Image.new("RGB", (1, 1))

    def done(self) -> None:
        """Forget the images that :meth:`shown` returned; their ids may be reused."""
        self._keys.clear()

    def ahead(self, pictures: Sequence[Picture]) -> None:
        """Take pictures that were prepared before, and prepare the others in parallel, before their pairs need them.

        The pair reports a picture that fails.
        """
        if self._answers is None or self._options is None:
            return
        options, new = self._options, {}
        for picture in pictures:
            with suppress(*REFUSALS):
                if (picture.key,) not in self._answers and self._known_grid(picture.key) is None:
                    found = picture.prepared()
                    if found is None:
                        new[picture.key] = picture
                    elif found.image is None:
                        self._answers[(picture.key,)] = found.inputs
                    else:
                        self._cached_call((picture.key,), [[found.image]], options)

        def prepare(key: str, picture: Picture) -> None:
            with suppress(*REFUSALS):
                self._cached_call((key,), [[self._opened(picture)]], options)

        if len(new) > 1:
            with ThreadPoolExecutor(max_workers=min(_THREADS, os.cpu_count() or 1)) as pool:
                list(pool.map(carried(prepare), new, new.values()))

    def keep_only(self, keys: set[str]) -> None:
        """Discard the pixels of all other pictures."""
        self._answers = {known: answer for known, answer in (self._answers or {}).items() if set(known) <= keys}

    def single(self, key: str) -> Mapping[str, Tensor] | None:
        """Return the image processor's output for a single picture; None if it was not processed alone."""
        answer = (self._answers or {}).get((key,))
        return None if answer is None else dict(answer)

    def _known_grid(self, key: str) -> Tensor | None:
        # the first picture is always processed: it shows the keyword arguments and the form of the output
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
            return self._cached_call(known, images, kwargs)
        first = self._cached_call(known[:1], [[flat[0]]], kwargs)
        if "image_grid_thw" not in first:
            return self._cached_call(known, images, kwargs)
        rest = [self._cached_call((key,), [[image]], kwargs) for key, image in zip(known[1:], flat[1:], strict=True)]
        answers = [first, *rest]
        return type(first)({name: torch.cat([torch.as_tensor(answer[name]) for answer in answers]) for name in first})

    def _cached_call(self, keys: tuple[str, ...], images: Any, kwargs: dict[str, Any]) -> Any:
        assert self._answers is not None
        if keys not in self._answers:
            grid = self._known_grid(keys[0]) if len(keys) == 1 else None
            if grid is not None:
                return BatchFeature({"pixel_values": self._no_pixels, "image_grid_thw": grid})
            self._answers[keys] = self._wrapped(images, **kwargs)
        answer = self._answers[keys]
        if len(keys) == 1 and "image_grid_thw" in answer:
            self._options, self._no_pixels = kwargs, torch.as_tensor(answer["pixel_values"])[:0]
        # a copy, since processors remove keys from it
        return type(answer)(dict(answer))


def _flatten(images: Any) -> Iterator[Any]:
    if isinstance(images, list | tuple):
        for image in images:
            yield from _flatten(image)
    else:
        yield images
