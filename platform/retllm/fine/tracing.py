"""Record the trace of a forward pass with read-only hooks, in addition to those of :mod:`retllm.fine.hooks`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from retllm.errors import ModelUnsuited
from retllm.fine.batching import Layout, Pair
from retllm.fine.feedforward import FeedForward, feed_forward_module
from retllm.fine.hooks import NEVER, Reinjection, keep_visual, last_of
from retllm.fine.injection import Injection, LayerPlan
from retllm.fine.model import LoadedModel
from retllm.fine.trace import Grid, Weights
from retllm.fine.trigger import early_uncertainty

#: decimals of the stored readings; enough to distinguish them on a page
_DIGITS = 5


@dataclass(frozen=True, slots=True)
class Record:
    """The recorded values of one pair; see :class:`~retllm.fine.trace.Trace` for the fields."""

    uncertainty: tuple[float, ...]
    armed_layer: int | None
    map_layer: int | None
    weights: Weights | None
    grids: tuple[Grid | None, ...]


@dataclass(slots=True, eq=False)
class _Seen:
    """The values that the hooks of one pass collect: readings (b,) and feed-forward inputs (b, 1, d) by layer."""

    readings: dict[int, Tensor] = field(default_factory=dict)
    inputs: dict[int, Tensor] = field(default_factory=dict)


class Recorder:
    """Stores a :class:`Record` of the first pass over each candidate that shows a picture.

    Args:
        loaded: the model.
        injection, plan: the settings of the recorded passes, and the layers they select in this model.
    """

    def __init__(self, loaded: LoadedModel, injection: Injection, plan: LayerPlan) -> None:
        self._loaded = loaded
        self._injection = injection
        self._plan = plan
        self._feed_forwards: dict[int, FeedForward | None] = {}
        # without watched layers, use those that the default settings watch
        layers = len(loaded.decoder.layers)
        self._watched = plan.watched or Injection().plan(layers).watched or range(layers - 1)
        self.records: dict[int, Record] = {}
        """Records by the candidate's position in the call."""

    @contextmanager
    def watching(
        self, candidates: Sequence[int | None], pairs: Sequence[Pair], layout: Layout, reinjection: Reinjection | None
    ) -> Iterator[None]:
        """Record one forward pass over whole questions; remove the hooks afterwards, also after an error.

        Args:
            candidates: the candidate of each sample; None for a sample that is not recorded.
            pairs: the samples.
            layout: their layout, on the device.
            reinjection: of this pass; None if nothing is injected.
        """
        new = {
            candidate: row
            for row, candidate in enumerate(candidates)
            if candidate is not None and candidate not in self.records
        }
        if not new or not pairs[0].pictures:
            yield
            return
        seen = _Seen()
        # without re-injection, an instance that injects nowhere holds the visual tokens
        visual = reinjection or Reinjection(self._injection, LayerPlan(range(0), None), layout)
        with ExitStack() as stack:
            if reinjection is None:
                keep = self._loaded.decoder.trunk.register_forward_pre_hook(keep_visual(visual), with_kwargs=True)
                stack.callback(keep.remove)
            for number, layer in enumerate(self._loaded.decoder.layers):
                stack.callback(layer.register_forward_hook(self._reading(seen, number, layout)).remove)
                module = feed_forward_module(layer)
                if module is not None:
                    stack.callback(module.register_forward_pre_hook(_input(seen, number, layout)).remove)
            yield
        for candidate, record in zip(new, self._records(pairs, list(new.values()), layout, visual, seen), strict=True):
            self.records[candidate] = record

    def _reading(self, seen: _Seen, number: int, layout: Layout) -> Any:
        def read(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            seen.readings[number] = early_uncertainty(self._loaded.decoder.read(last_of(hidden, layout)))

        return read

    def _records(
        self, pairs: Sequence[Pair], rows: Sequence[int], layout: Layout, visual: Reinjection, seen: _Seen
    ) -> Iterator[Record]:
        """Yield the records of one pass; wait for the device, since many pending passes would fill its memory."""
        depth = len(self._loaded.decoder.layers)
        readings = torch.stack([seen.readings[number] for number in range(depth)], dim=1).tolist()
        armed = visual.armed.tolist()
        counts = layout.visual_real.sum(dim=1).tolist()
        places = layout.visual.cpu()
        maps: dict[int, Tensor | None] = {}
        for row in rows:
            layer = armed[row] if armed[row] != NEVER else self._layer_after_most_uncertain(readings[row])
            if layer not in maps:
                maps[layer] = self._map(layer, visual, seen)
            found = maps[layer]
            weights = [] if found is None else found[row, : counts[row]].tolist()
            readable = bool(weights) and all(math.isfinite(weight) for weight in weights)
            yield Record(
                uncertainty=tuple(round(reading, _DIGITS) for reading in readings[row]),
                armed_layer=None if armed[row] == NEVER else armed[row],
                map_layer=layer if readable else None,
                weights=Weights.of(weights) if readable else None,
                grids=grids_of(pairs[row], places[row, : counts[row]].tolist()),
            )

    def _layer_after_most_uncertain(self, readings: Sequence[float]) -> int:
        # a decoder of one layer has no other
        return max(self._watched, key=lambda number: readings[number], default=-1) + 1

    def _map(self, layer: int, visual: Reinjection, seen: _Seen) -> Tensor | None:
        """Return (b, N), the weights of the answer's position at a layer; None if its network can't be read."""
        if layer not in self._feed_forwards:
            try:
                self._feed_forwards[layer] = self._loaded.feed_forward(layer)
            except ModelUnsuited:
                self._feed_forwards[layer] = None
        feed_forward, x = self._feed_forwards[layer], seen.inputs.get(layer)
        return None if feed_forward is None or x is None else visual.weights(feed_forward, x)[:, 0].float()


def _input(seen: _Seen, number: int, layout: Layout) -> Any:
    def keep(_: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor) and args[0].dim() == 3:
            seen.inputs[number] = last_of(args[0], layout)

    return keep


def grids_of(pair: Pair, positions: Sequence[int]) -> tuple[Grid | None, ...]:
    """Return the (rows, columns) of visual tokens of each picture, None for a picture whose tokens form no plain grid.

    Taken from ``image_grid_thw`` if the family has it (in patches; a square of patches makes one token). Otherwise the
    grid is square if there is a single square picture in one tile and its tokens are contiguous; the tiles, thumbnails
    and row ends of other families form no grid.

    Args:
        pair: the question.
        positions: the positions of its visual tokens, in order.
    """
    none = (None,) * len(pair.pictures)
    patches = pair.vision.get("image_grid_thw")
    if patches is not None:
        return _merged(patches.tolist(), len(positions)) or none
    pixels = pair.vision.get("pixel_values")
    side = math.isqrt(len(positions))
    if (
        len(pair.pictures) == 1
        and pixels is not None
        and pixels.dim() >= 4
        and pixels.shape[:-3].numel() == 1
        and pixels.shape[-1] == pixels.shape[-2]
        and positions[-1] - positions[0] + 1 == len(positions) == side * side
    ):
        return ((side, side),)
    return none


def _merged(patches: Sequence[Sequence[int]], tokens: int) -> tuple[Grid | None, ...] | None:
    """Return the grids of tokens from the (frames, rows, columns) of patches; a square of patches makes one token."""
    total = sum(math.prod(grid) for grid in patches)
    merge = max(1, math.isqrt(total // tokens))
    fits = all(frames == 1 and rows % merge == columns % merge == 0 for frames, rows, columns in patches)
    if merge * merge * tokens != total or not fits:
        return None
    return tuple((rows // merge, columns // merge) for _, rows, columns in patches)
