"""Image prefixes: cached keys and values of everything up to the last visual token.

All questions about a picture begin the same, so the keys and values of that part are computed once, and only the rest
of the question, the tail, passes through the decoder. That is exact if nothing before the tail depends on it: without
re-injection, or with scope ``suffix`` (method section 4).
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

#: see ``PrefixCache.make_room``
_LEAST_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """The first ``length`` tokens of a question, up to its last visual token.

    Attributes:
        states: each layer's keys and values, (1, heads, length, width); None for a layer that has none of its own.
        visual: (n, d) its visual tokens, as input of the decoder.
        next_position: scalar tensor; the position id of the next token.
        length: number of tokens, visual ones included.
        opening: the first tokens of :attr:`Opening.tokens`, which this prefix replaces.
        closing: tokens between the last visual one and the text after it that occur only in the expanded message.
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
        return self.visual.nbytes + sum(state.nbytes for layer in self.states if layer for state in layer)

    def tail(self, opening: Opening) -> tuple[int, ...] | None:
        """Return the tokens after this prefix in a message; None if the message's tokens do not begin with it."""
        split = len(self.opening)
        if opening.tokens[:split] != self.opening:
            return None
        return self.closing + opening.tokens[split:]


@dataclass(frozen=True, slots=True)
class Split:
    """Where to split a pair: after ``length`` tokens. The other attributes are as in :class:`Prefix`."""

    length: int
    opening: tuple[int, ...]
    closing: tuple[int, ...]


def split(pair: Pair, opening: Opening, image_token: int) -> Split | None:
    """Find the split of a pair; None if the written and the expanded message have different ends."""
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
        index: its position among the prompts of the call.
        prefix: the prefix before it.
        tokens: its tokens, including those of the answer so far.
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
    """Tails padded to one length: the model's inputs on its device; :meth:`cache` makes the cache."""

    tails: tuple[Tail, ...]
    inputs: dict[str, Tensor]
    layout: Layout

    def visual(self) -> Tensor:
        """Return (b, N, d), the visual tokens of each prefix, padded with zeros."""
        count = self.layout.visual_real.shape[1]
        return torch.stack([pad(tail.prefix.visual, (0, 0, 0, count - len(tail.prefix.visual))) for tail in self.tails])

    def cache(self) -> Any:
        """Return the prefixes' keys and values as a cache for the model, padded with zeros, which the mask excludes."""
        from transformers import DynamicCache

        prefixes = [tail.prefix for tail in self.tails]
        longest = max(prefix.length for prefix in prefixes)
        layers = range(len(prefixes[0].states))
        return DynamicCache([_stacked([prefix.states[layer] for prefix in prefixes], longest) for layer in layers])


def _stacked(parts: Sequence[tuple[Tensor, Tensor] | None], length: int) -> tuple[Tensor | None, ...]:
    if parts[0] is None:
        return None, None
    if all(part is parts[0] for part in parts):
        return tuple(state.expand(len(parts), -1, -1, -1) for state in parts[0])
    known = [part for part in parts if part is not None]
    return tuple(
        torch.cat([pad(part[side], (0, 0, 0, length - part[side].shape[2])) for part in known]) for side in (0, 1)
    )


def collate_tails(tails: Sequence[Tail], pad_token: int, device: torch.device) -> TailBatch:
    """Pad tails on the right; the mask excludes the padding of their prefixes."""
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
    """The decoder's inputs in a forward pass: embeddings (b, s, d), and position ids (..., b, s) if there are any."""

    embeddings: Tensor | None = None
    positions: Tensor | None = None

    def see(self, _: Any, __: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Store the inputs; a forward pre-hook of the decoder."""
        self.embeddings = kwargs.get("inputs_embeds")
        self.positions = kwargs.get("position_ids")


def empty_cache() -> Any:
    """Return a cache that keeps every position, also for layers with a window."""
    from transformers import DynamicCache

    return DynamicCache()


@contextmanager
def capture_decoder_inputs(trunk: nn.Module) -> Iterator[DecoderInputs]:
    """Capture the decoder's inputs in the next forward pass."""
    decoder_inputs = DecoderInputs()
    handle = trunk.register_forward_pre_hook(decoder_inputs.see, with_kwargs=True)
    try:
        yield decoder_inputs
    finally:
        handle.remove()


def harvest(
    cache: Any, splits: Sequence[Split | None], layout: Layout, decoder_inputs: DecoderInputs
) -> list[Prefix | None]:
    """Return the prefixes of the samples of a forward pass, from the keys and values in ``cache``.

    A prefix is a copy: it does not keep the batch in memory. None where ``splits`` has None, or for all samples if the
    decoder got no embeddings. ``layout`` is on the CPU, so that nothing here waits for the device.
    """
    if not isinstance(decoder_inputs.embeddings, Tensor):
        return [None] * len(splits)
    counts = layout.visual_real.sum(dim=1).tolist()
    prefixes: list[Prefix | None] = []
    for row, part in enumerate(splits):
        if part is None:
            prefixes.append(None)
            continue
        states = tuple(_row(layer, row, part.length) for layer in cache.layers)
        visual = decoder_inputs.embeddings[row, layout.visual[row, : counts[row]]]
        position = _next_position(decoder_inputs.positions, row, part.length, visual.device)
        prefixes.append(Prefix(states, visual, position, part.length, part.opening, part.closing))
    return prefixes


def _row(layer: Any, row: int, length: int) -> tuple[Tensor, Tensor] | None:
    keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
    if keys is None or values is None or keys.numel() == 0:
        return None
    return keys[row : row + 1, :, :length].clone(), values[row : row + 1, :, :length].clone()


def _next_position(positions: Tensor | None, row: int, length: int, device: torch.device) -> Tensor:
    """Return the largest position so far plus 1: a picture of h rows and w columns takes max(h, w) positions."""
    if positions is None:
        return torch.tensor(length, device=device)
    row = row if positions.shape[-2] > 1 else 0
    if positions.dim() == 3 and positions.shape[0] == 4:
        positions = positions[1:]  # the first row has the text positions; time, height and width follow
    return positions[..., row, :length].amax() + 1


class PrefixCache:
    """Prefixes by the beginning of their message; an LRU cache with a maximum size in bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._kept: LRUCache[Key, Prefix] = LRUCache(max(0, max_bytes), getsizeof=lambda prefix: prefix.nbytes)

    @property
    def open(self) -> bool:
        """Whether the cache can hold anything."""
        return self._kept.maxsize > 0

    def get(self, key: Key) -> Prefix | None:
        """Return the prefix, or None if it is not cached."""
        found: Prefix | None = self._kept.get(key)
        return found

    def shows(self, picture: str) -> bool:
        """Return whether a prefix with this picture is cached; does not count as a use."""
        return any(picture in key for key in list(self._kept))

    def put(self, key: Key, prefix: Prefix) -> None:
        """Add a prefix, unless it is larger than the cache."""
        if prefix.nbytes <= self._kept.maxsize:
            self._kept[key] = prefix

    def make_room(self) -> bool:
        """Discard all prefixes, since the device is full, and keep fewer from now on; return whether there were any.

        The size is halved, but not below 1 GiB.
        """
        held = bool(self._kept)
        size = self._kept.maxsize
        self._kept = LRUCache(min(size, max(_LEAST_BYTES, size // 2)), getsizeof=lambda prefix: prefix.nbytes)
        return held

    def clear(self) -> None:
        """Discard all prefixes."""
        self._kept.clear()
