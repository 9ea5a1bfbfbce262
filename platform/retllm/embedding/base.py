"""What all embedders have in common: batches, pictures prepared ahead of the model, vectors of length 1."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from retllm.embedding.info import EmbedderInfo
from retllm.errors import InvalidInput
from retllm.logs import carried

# a JPEG may be decoded at reduced size, but not below this multiple of the model's input size: at 2, single pixels
# after the transform differ by up to 0.08 (5 levels of 255) from the full decode, at 1 by up to 0.17
JPEG_OVER = 2
_PICTURE_ERRORS = (OSError, ValueError, RuntimeError, SyntaxError, ZeroDivisionError)


class Embedder(ABC):
    """A loaded encoder; create it with ``load_embedder``. Safe to call from several threads.

    Some models embed a query in another way than an item (:attr:`EmbedderInfo.asymmetric`); for the others ``query``
    changes nothing. Call the methods only for what the model takes (:attr:`EmbedderInfo.pictures` and ``texts``).
    """

    info: EmbedderInfo
    least_side: int
    """Minimum shorter side in pixels at which a JPEG may be decoded for :meth:`prepare`; 0 means its full size."""
    _batch = 64

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """The device of the model."""

    @abstractmethod
    def _pixels(self, image: Image.Image, query: bool) -> Any:
        """Return the model's input for a picture."""

    @abstractmethod
    def _forward_images(self, prepared: Sequence[Any], query: bool) -> Tensor:
        """Return the vectors (n, d) of prepared pictures, n at least 1."""

    @abstractmethod
    def _forward_texts(self, texts: Sequence[str], query: bool) -> Tensor:
        """Return the vectors (n, d) of texts, n at least 1."""

    def embed_images(self, images: Sequence[Image.Image], *, query: bool = False) -> NDArray[np.float32]:
        """Embed pictures.

        Args:
            images: any number, of any size and mode.
            query: whether they are queries and not items.

        Returns:
            (n, d) float32, each row of length 1; rows are independent, up to floating-point tolerance.

        Raises:
            InvalidInput: a picture can't be decoded or resized; ``detail["index"]`` names it.
        """
        return self._gathered([self._forward_images(batch, query) for batch in self._prepared(images, query)])

    def prepare(self, image: Image.Image) -> Any:
        """Return the model's input for the picture of an item, for :meth:`embed_prepared`.

        The picture is no longer needed then.

        Raises:
            InvalidInput: the picture can't be decoded or resized.
        """
        return self._checked_pixels(0, image, False)

    def embed_prepared(self, prepared: Sequence[Any]) -> NDArray[np.float32]:
        """Embed prepared pictures, with the same result as :meth:`embed_images`."""
        batches = [prepared[at : at + self._batch] for at in range(0, len(prepared), self._batch)]
        return self._gathered([self._forward_images(batch, False) for batch in batches])

    def embed_texts(self, texts: Sequence[str], *, query: bool = False) -> NDArray[np.float32]:
        """Embed texts, truncated to the model's context (77 tokens for CLIP).

        Args:
            texts: any number.
            query: whether they are queries and not items.

        Returns:
            (n, d) float32, each row of length 1.
        """
        batches = [texts[at : at + self._batch] for at in range(0, len(texts), self._batch)]
        return self._gathered([self._forward_texts(batch, query) for batch in batches])

    def _prepared(self, images: Sequence[Image.Image], query: bool) -> Iterator[list[Any]]:
        """Yield batches of inputs; while the model computes one batch, the next is prepared."""
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:

            def start(at: int) -> Any:
                batch = images[at : at + self._batch]
                return pool.map(carried(self._checked_pixels), range(at, at + len(batch)), batch, repeat(query))

            upcoming = start(0) if images else None
            for at in range(0, len(images), self._batch):
                current = upcoming
                if at + self._batch < len(images):
                    upcoming = start(at + self._batch)
                assert current is not None
                yield list(current)

    def _checked_pixels(self, index: int, image: Image.Image, query: bool) -> Any:
        try:
            return self._pixels(image, query)
        except _PICTURE_ERRORS as error:
            raise InvalidInput(f"The picture can't be prepared: {error}", field="images", index=index) from error

    def _gathered(self, rows: Sequence[Tensor]) -> NDArray[np.float32]:
        if not rows:
            return np.zeros((0, self.info.dimension), dtype=np.float32)
        vectors: NDArray[np.float32] = torch.cat(list(rows)).cpu().numpy()
        return vectors
