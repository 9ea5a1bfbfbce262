"""Image prefixes: what a decoder has made of everything up to the last visual token, kept and used again.

A question begins the same for every text that is asked about a picture, so its keys and values are computed once and
only the rest of the question, the tail, passes through the decoder. That is exact where nothing before the tail can
depend on it: without re-injection, or with scope ``suffix`` (method section 4).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from cachetools import LRUCache
from torch import Tensor, nn
from torch.nn.functional import pad

from retllm.fine.batching import Layout, Pair
from retllm.fine.prepare import Opening

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """The first ``length`` tokens of a question, up to its last visual token.

    Attributes:
        states: each layer's keys and values, (1, heads, length, width); None for a layer that has none of its own.
        visual: (n, d) its visual tokens, as they go into the decoder.
        next_position: scalar tensor; the position id of the token that follows.
        length: number of tokens, visual ones included.
        opening: how many of :attr:`Opening.tokens` it stands for, and these tokens.
        closing: tokens between the last visual one and the text that follows, which only the expanded message has.
    """

    states: tuple[tuple[Tensor, Tensor] | None, ...]
    visual: Tensor
    next_position: Tensor
    length: int
    opening: tuple[int, ...]
    closing: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes held on the device."""
        return self.visual.nbytes + sum(one.nbytes for layer in self.states if layer for one in layer)

    def tail(self, opening: Opening) -> tuple[int, ...] | None:
        """The tokens that follow in a message with this beginning; None if its tokens begin otherwise."""
        split = len(self.opening)
        if opening.tokens[:split] != self.opening:
            return None
        return self.closing + opening.tokens[split:]


@dataclass(frozen=True, slots=True)
class Split:
    """Where a pair comes apart: after ``length`` tokens; the rest as in :class:`Prefix`."""

    length: int
    opening: tuple[int, ...]
    closing: tuple[int, ...]


def split(pair: Pair, opening: Opening, image_token: int) -> Split | None:
    """Find the split of a pair; None if the message as written and as expanded do not end alike."""
    whole = pair.tokens["input_ids"][0].tolist()
    length = len(whole) - whole[::-1].index(image_token) if image_token in whole else 0
    written = opening.tokens
    same = 0
    while same < min(len(whole) - length, len(written)) and whole[-1 - same] == written[-1 - same]:
        same += 1
    if not length or not same or image_token in written[len(written) - same :]:
        return None
    return Split(length, written[: len(written) - same], tuple(whole[length : len(whole) - same]))


@dataclass(frozen=True, slots=True, eq=False)
class Tail:
    """The rest of a question whose prefix is known.

    Attributes:
        index: its place among the asks of the call.
        prefix: what comes before.
        tokens: its tokens, those of the answer so far included.
    """

    index: int
    prefix: Prefix
    tokens: tuple[int, ...]

    @property
    def length(self) -> int:
        """Number of tokens of prefix and tail."""
        return self.prefix.length + len(self.tokens)


@dataclass(frozen=True, slots=True, eq=False)
class TailBatch:
    """Tails padded to one length: the model's inputs, on its device but for the cache that :meth:`cache` makes."""

    tails: tuple[Tail, ...]
    inputs: dict[str, Tensor]
    layout: Layout

    def visual(self) -> Tensor:
        """(b, N, d) the visual tokens of each prefix, filled up with zeros."""
        most = self.layout.visual_real.shape[1]
        return torch.stack([pad(tail.prefix.visual, (0, 0, 0, most - len(tail.prefix.visual))) for tail in self.tails])

    def cache(self) -> Any:
        """The prefixes' keys and values as the model takes them, filled up with zeros, which the mask leaves out."""
        from transformers import DynamicCache

        prefixes = [tail.prefix for tail in self.tails]
        most = max(prefix.length for prefix in prefixes)
        return DynamicCache(
            [_stacked([prefix.states[layer] for prefix in prefixes], most) for layer in range(len(prefixes[0].states))]
        )


def _stacked(parts: Sequence[tuple[Tensor, Tensor] | None], most: int) -> tuple[Tensor | None, ...]:
    if parts[0] is None:
        return None, None
    if all(part is parts[0] for part in parts):
        return tuple(one.expand(len(parts), -1, -1, -1) for one in parts[0])
    known = [part for part in parts if part is not None]
    return tuple(
        torch.cat([pad(part[side], (0, 0, 0, most - part[side].shape[2])) for part in known]) for side in (0, 1)
    )


def collate_tails(tails: Sequence[Tail], pad_token: int, device: torch.device) -> TailBatch:
    """Pad tails on the right; the mask leaves out what fills up the prefixes before them."""
    lengths = torch.tensor([len(tail.tokens) for tail in tails])
    before = torch.tensor([tail.prefix.length for tail in tails])
    counts = torch.tensor([len(tail.prefix.visual) for tail in tails])
    longest = int(lengths.max())
    ids = torch.full((len(tails), longest), pad_token)
    for row, tail in zip(ids, tails, strict=True):
        row[: len(tail.tokens)] = torch.tensor(tail.tokens)
    places = torch.arange(longest)
    real = places[None, :] < lengths[:, None]
    earlier = torch.arange(int(before.max()))[None, :] < before[:, None]
    visual_real = torch.arange(int(counts.max()))[None, :] < counts[:, None]
    layout = Layout(lengths - 1, real, real, torch.zeros_like(visual_real, dtype=torch.long), visual_real).to(device)
    first = torch.stack([tail.prefix.next_position for tail in tails])
    inputs = {
        "input_ids": ids.to(device, non_blocking=True),
        "attention_mask": torch.cat([earlier, real], dim=1).long().to(device, non_blocking=True),
        "position_ids": first[:, None] + places.to(device, non_blocking=True)[None, :],
    }
    return TailBatch(tuple(tails), inputs, layout)


@dataclass(slots=True, eq=False)
class DecoderInputs:
    """What a forward pass gave its decoder: embeddings (b, s, d), and position ids (..., b, s) where it made any."""

    embeddings: Tensor | None = None
    positions: Tensor | None = None

    def see(self, _: Any, __: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A forward pre-hook of the decoder."""
        self.embeddings = kwargs.get("inputs_embeds")
        self.positions = kwargs.get("position_ids")


def empty_cache() -> Any:
    """A cache that grows: it keeps every position, of layers with a window too."""
    from transformers import DynamicCache

    return DynamicCache()


@contextmanager
def capture_decoder_inputs(trunk: nn.Module) -> Iterator[DecoderInputs]:
    """Watch what the next forward pass gives its decoder."""
    witness = DecoderInputs()
    handle = trunk.register_forward_pre_hook(witness.see, with_kwargs=True)
    try:
        yield witness
    finally:
        handle.remove()


def harvest(cache: Any, splits: Sequence[Split | None], layout: Layout, witness: DecoderInputs) -> list[Prefix | None]:
    """The prefixes of the samples of a forward pass, from the keys and values that it left in ``cache``.

    A prefix is a copy: it does not keep the batch in memory. None where ``splits`` has none, or the model does not
    show what is needed. ``layout`` is the CPU's, so that nothing here waits for the device.
    """
    if not isinstance(witness.embeddings, Tensor):
        return [None] * len(splits)
    counts = layout.visual_real.sum(dim=1).tolist()
    prefixes: list[Prefix | None] = []
    for row, part in enumerate(splits):
        if part is None:
            prefixes.append(None)
            continue
        states = tuple(_row(layer, row, part.length) for layer in cache.layers)
        visual = witness.embeddings[row, layout.visual[row, : counts[row]]]
        position = _next_position(witness.positions, row, part.length, visual.device)
        prefixes.append(Prefix(states, visual, position, part.length, part.opening, part.closing))
    return prefixes


def _row(layer: Any, row: int, length: int) -> tuple[Tensor, Tensor] | None:
    keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
    if keys is None or values is None or keys.numel() == 0:
        return None
    return keys[row : row + 1, :, :length].clone(), values[row : row + 1, :, :length].clone()


def _next_position(positions: Tensor | None, row: int, length: int, device: torch.device) -> Tensor:
    """One more than the largest position so far: a picture of h rows and w columns takes up max(h, w) positions."""
    if positions is None:
        return torch.tensor(length, device=device)
    row = row if positions.shape[-2] > 1 else 0
    if positions.dim() == 3 and positions.shape[0] == 4:
        positions = positions[1:]  # before those for time, height and width come the plain ones of the text
    return positions[..., row, :length].amax() + 1


class PrefixCache:
    """Prefixes by how the message begins, bounded in bytes; those used least recently go first."""

    def __init__(self, most_bytes: int) -> None:
        self._kept: LRUCache[Key, Prefix] = LRUCache(max(0, most_bytes), getsizeof=lambda one: one.nbytes)

    @property
    def open(self) -> bool:
        """Whether it can hold anything."""
        return self._kept.maxsize > 0

    def get(self, key: Key) -> Prefix | None:
        """The prefix, if it is still here."""
        found: Prefix | None = self._kept.get(key)
        return found

    def put(self, key: Key, prefix: Prefix) -> None:
        """Keep a prefix, if it is not larger than all the room there is."""
        if prefix.nbytes <= self._kept.maxsize:
            self._kept[key] = prefix

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()
