"""Projected visual tokens: computed once for each picture, cached across calls, used by every pair that shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from cachetools import LRUCache
from torch import Tensor

from retllm.fine.batching import Batch
from retllm.fine.model import LoadedModel


@dataclass(frozen=True, slots=True, eq=False)
class _Projected:
    """The output of the vision tower for one picture: its tokens (n, d), those for deeper layers, and its grid."""

    tokens: Tensor
    deep: tuple[Tensor, ...]
    grid: Tensor

    @property
    def nbytes(self) -> int:
        return sum(tokens.nbytes for tokens in (self.tokens, *self.deep))


class PictureFeatures:
    """Makes the model's inputs for batches and encodes every picture once, if the model supports it.

    If it does not, the pixels go into the model's forward pass. Each scorer has one instance, which gives the grids of
    known pictures to the scorer's preparer.

    Args:
        loaded: the model.
        token_budget: maximum number of patches in one pass of the vision tower.
        max_bytes: size of the LRU cache of visual tokens.
    """

    def __init__(self, loaded: LoadedModel, token_budget: int, max_bytes: int) -> None:
        self._loaded = loaded
        self._token_budget = token_budget
        self._kept: LRUCache[str, _Projected] = LRUCache(max(0, max_bytes), getsizeof=lambda picture: picture.nbytes)
        # the pictures of the current work; never evicted before they are used
        self._current: dict[str, _Projected] = {}
        self._shares = loaded.shares_pictures
        self._device: torch.device = loaded.module.device
        self._kind: Any = None
        self.attach()

    def attach(self) -> None:
        """Connect to the preparer, which skips the pixels of known pictures."""
        if self._shares:
            self._loaded.preparer.pixels.grids = self._grid

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """Return the keyword arguments of the model's forward pass, on its device."""
        shown = [picture for pair in batch.pairs for picture in pair.pictures]
        tensors = batch.inputs
        if not self._shares or not shown:
            return self._moved(tensors)
        self._encode([key for key in dict.fromkeys(shown) if not self._holds(key)])
        rest = {key: value for key, value in tensors.items() if key != "pixel_values"}
        return {**self._moved(rest), "mm_encoder_outputs": {"image": self._together(shown)}}

    def keep_only(self, pictures: set[str]) -> None:
        """Discard all pictures of the current work except these; the LRU cache is not changed."""
        self._current = {key: known for key, known in self._current.items() if key in pictures}

    def forget(self) -> None:
        """Clear the cache."""
        self._kept.clear()

    def _holds(self, key: str) -> bool:
        """Return whether a picture's tokens are known; if so, keep them until the current work is finished."""
        if key not in self._current and key in self._kept:
            self._current[key] = self._kept[key]
        return key in self._current

    def knows(self, key: str) -> bool:
        """Return whether the tokens of a picture are cached; does not count as a use."""
        return key in self._kept

    def _grid(self, key: str) -> Tensor | None:
        return self._current[key].grid if self._holds(key) else None

    def _moved(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        dtype = self._loaded.module.dtype
        return {
            key: value.to(self._device, dtype if value.is_floating_point() else None, non_blocking=True)
            for key, value in tensors.items()
        }

    def _encode(self, pictures: Sequence[str]) -> None:
        """Run the vision tower over pictures, in chunks within the token budget."""
        chunk: list[tuple[str, Mapping[str, Tensor]]] = []
        patches = 0
        for picture in pictures:
            prepared = self._loaded.preparer.pixels.single(picture)
            assert prepared is not None, "families with shared pictures prepare each picture separately"
            size = prepared["pixel_values"].shape[0]
            if chunk and patches + size > self._token_budget:
                self._run(chunk)
                chunk, patches = [], 0
            chunk.append((picture, prepared))
            patches += size
        if chunk:
            self._run(chunk)

    def _run(self, chunk: Sequence[tuple[str, Mapping[str, Tensor]]]) -> None:
        keys = ("pixel_values", "image_grid_thw")
        tensors = {key: torch.cat([torch.as_tensor(prepared[key]) for _, prepared in chunk]) for key in keys}
        output = self._loaded.module.get_image_features(**self._moved(tensors), return_dict=True)
        self._kind = type(output)
        deep = getattr(output, "deepstack_features", None) or ()
        for at, (picture, prepared) in enumerate(chunk):
            grid = torch.as_tensor(prepared["image_grid_thw"])
            known = _Projected(output.pooler_output[at], tuple(layer[at] for layer in deep), grid)
            self._current[picture] = known
            if known.nbytes <= self._kept.maxsize:
                # a copy, since a view would keep the whole batch in memory
                deep_copies = tuple(layer.clone() for layer in known.deep)
                self._kept[picture] = _Projected(known.tokens.clone(), deep_copies, grid)

    def _together(self, shown: Sequence[str]) -> Any:
        """Return what ``get_image_features`` would return for these pictures in this order."""
        pictures = [self._current[key] for key in shown]
        parts: dict[str, Any] = {"pooler_output": tuple(picture.tokens for picture in pictures)}
        if pictures[0].deep:
            layers = zip(*(picture.deep for picture in pictures), strict=True)
            parts["deepstack_features"] = [tuple(layer) for layer in layers]
        return self._kind(**parts)
