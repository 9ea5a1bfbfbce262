"""Projected visual tokens, made once for each picture of a call and given to every pair that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from retllm.fine.batching import Batch
from retllm.fine.model import LoadedModel


@dataclass(frozen=True, slots=True, eq=False)
class _Projected:
    """One picture's way through the vision tower: its tokens (n, d), and those that go in at deeper layers."""

    tokens: Tensor
    deep: tuple[Tensor, ...]


class PictureFeatures:
    """The model's inputs for batches of one call, with every picture encoded once where the model allows it.

    Where it does not, the pixels go to the model's own forward pass, as they came from its processor.
    """

    def __init__(self, loaded: LoadedModel, token_budget: int) -> None:
        self._loaded = loaded
        self._token_budget = token_budget
        self._known: dict[int, _Projected] = {}
        self._shares = loaded.shares_pictures
        self._device: torch.device = loaded.module.device

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """Keyword arguments of the model's forward pass, on its device."""
        shown = [picture for pair in batch.pairs for picture in pair.pictures]
        tensors = batch.inputs
        if not self._shares or not shown:
            return self._moved(tensors)
        self._encode(list(dict.fromkeys(picture for picture in shown if picture not in self._known)))
        rest = {key: value for key, value in tensors.items() if key != "pixel_values"}
        return {**self._moved(rest), "mm_encoder_outputs": {"image": self._together(shown)}}

    def keep_only(self, pictures: set[int]) -> None:
        """Forget every other picture."""
        self._known = {picture: known for picture, known in self._known.items() if picture in pictures}

    def _moved(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        dtype = self._loaded.module.dtype
        return {
            key: value.to(self._device, dtype if value.is_floating_point() else None, non_blocking=True)
            for key, value in tensors.items()
        }

    def _encode(self, pictures: Sequence[int]) -> None:
        """Run the vision tower over pictures not seen yet, as many at a time as the token budget allows."""
        chunk: list[tuple[int, dict[str, Tensor]]] = []
        patches = 0
        for picture in pictures:
            prepared = self._loaded.preparer.picture(picture)
            assert prepared is not None, "families that share pictures prepare them one by one"
            size = prepared["pixel_values"].shape[0]
            if chunk and patches + size > self._token_budget:
                self._run(chunk)
                chunk, patches = [], 0
            chunk.append((picture, prepared))
            patches += size
        if chunk:
            self._run(chunk)

    def _run(self, chunk: Sequence[tuple[int, dict[str, Tensor]]]) -> None:
        keys = ("pixel_values", "image_grid_thw")
        tensors = {key: torch.cat([torch.as_tensor(prepared[key]) for _, prepared in chunk]) for key in keys}
        output = self._loaded.module.get_image_features(**self._moved(tensors), return_dict=True)
        self._kind = type(output)
        deep = getattr(output, "deepstack_features", None) or ()
        for at, (picture, _) in enumerate(chunk):
            self._known[picture] = _Projected(output.pooler_output[at], tuple(layer[at] for layer in deep))

    def _together(self, shown: Sequence[int]) -> Any:
        """What ``get_image_features`` would have returned for these pictures in this order."""
        known = [self._known[picture] for picture in shown]
        parts: dict[str, Any] = {"pooler_output": tuple(one.tokens for one in known)}
        if known[0].deep:
            parts["deepstack_features"] = [tuple(layer) for layer in zip(*(one.deep for one in known), strict=True)]
        return self._kind(**parts)
