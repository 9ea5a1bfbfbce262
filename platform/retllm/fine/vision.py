"""Projected visual tokens: made once for each picture, kept from call to call, given to every pair that shows it."""

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
    """One picture's way through the vision tower: its tokens (n, d), those that go in at deeper layers, its grid."""

    tokens: Tensor
    deep: tuple[Tensor, ...]
    grid: Tensor

    @property
    def nbytes(self) -> int:
        return sum(one.nbytes for one in (self.tokens, *self.deep))


class PictureFeatures:
    """The model's inputs for batches, with every picture encoded once where the model allows it.

    Where it does not, the pixels go to the model's own forward pass, as they came from its processor. One of a kind
    for each scorer, whose preparer it tells which pictures are known.

    Args:
        loaded: the model.
        token_budget: most patches in one pass of the vision tower.
        most_bytes: of visual tokens kept from call to call; those used least recently go first.
    """

    def __init__(self, loaded: LoadedModel, token_budget: int, most_bytes: int) -> None:
        self._loaded = loaded
        self._token_budget = token_budget
        self._kept: LRUCache[str, _Projected] = LRUCache(max(0, most_bytes), getsizeof=lambda one: one.nbytes)
        # of the work at hand; nothing here is dropped before it is used
        self._now: dict[str, _Projected] = {}
        self._shares = loaded.shares_pictures
        self._device: torch.device = loaded.module.device
        self._kind: Any = None
        self.attach()

    def attach(self) -> None:
        """Tell the preparer which pictures need no pixels."""
        if self._shares:
            self._loaded.preparer.pixels.grids = self._grid

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """Keyword arguments of the model's forward pass, on its device."""
        shown = [picture for pair in batch.pairs for picture in pair.pictures]
        tensors = batch.inputs
        if not self._shares or not shown:
            return self._moved(tensors)
        self._encode([key for key in dict.fromkeys(shown) if not self._holds(key)])
        rest = {key: value for key, value in tensors.items() if key != "pixel_values"}
        return {**self._moved(rest), "mm_encoder_outputs": {"image": self._together(shown)}}

    def keep_only(self, pictures: set[str]) -> None:
        """The work at hand needs no other pictures any more; what else is kept is bounded in bytes."""
        self._now = {key: known for key, known in self._now.items() if key in pictures}

    def forget(self) -> None:
        """Drop all that is kept."""
        self._kept.clear()

    def _holds(self, key: str) -> bool:
        """Whether a picture's tokens are known; if so, they stay until the work at hand is done."""
        if key not in self._now and key in self._kept:
            self._now[key] = self._kept[key]
        return key in self._now

    def _grid(self, key: str) -> Tensor | None:
        return self._now[key].grid if self._holds(key) else None

    def _moved(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        dtype = self._loaded.module.dtype
        return {
            key: value.to(self._device, dtype if value.is_floating_point() else None, non_blocking=True)
            for key, value in tensors.items()
        }

    def _encode(self, pictures: Sequence[str]) -> None:
        """Run the vision tower over pictures not seen yet, as many at a time as the token budget allows."""
        chunk: list[tuple[str, Mapping[str, Tensor]]] = []
        patches = 0
        for picture in pictures:
            prepared = self._loaded.preparer.pixels.single(picture)
            assert prepared is not None, "families that share pictures prepare them one by one"
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
            self._now[picture] = known
            if known.nbytes <= self._kept.maxsize:
                # a copy: the rows of one batch would keep all of it in memory
                self._kept[picture] = _Projected(known.tokens.clone(), tuple(one.clone() for one in known.deep), grid)

    def _together(self, shown: Sequence[str]) -> Any:
        """What ``get_image_features`` would have returned for these pictures in this order."""
        known = [self._now[picture] for picture in shown]
        parts: dict[str, Any] = {"pooler_output": tuple(one.tokens for one in known)}
        if known[0].deep:
            parts["deepstack_features"] = [tuple(layer) for layer in zip(*(one.deep for one in known), strict=True)]
        return self._kind(**parts)
