"""Batch prepared pairs: grouped by length under a token budget, padded on the right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

#: inputs with one value for each token; everything else describes pictures
TOKEN_KEYS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """One (query, candidate) pair, ready for the model.

    Attributes:
        index: its position among the prompts of the call.
        tokens: for each of :data:`TOKEN_KEYS` that the model takes, int tensor (1, length).
        vision: the inputs that describe its pictures, as returned by the processor.
        pictures: the keys of the pictures shown, in order.
    """

    index: int
    tokens: dict[str, Tensor]
    vision: dict[str, Tensor]
    pictures: tuple[str, ...]

    @property
    def length(self) -> int:
        """Number of tokens, visual ones included."""
        return int(self.tokens["input_ids"].shape[1])

    def cut(self, length: int) -> Pair:
        """Return the first ``length`` tokens, with all inputs that describe the pictures."""
        return Pair(
            self.index, {key: value[:, :length] for key, value in self.tokens.items()}, self.vision, self.pictures
        )

    def extended(self, index: int, answer_tokens: Sequence[int]) -> Pair:
        """Return the same pair under another ``index``, with tokens of the answer appended."""
        tokens = self.tokens
        if answer_tokens:
            none = torch.zeros(1, len(answer_tokens), dtype=torch.long)
            grown = {"input_ids": torch.tensor([list(answer_tokens)]), "attention_mask": torch.ones_like(none)}
            types = tokens.get("token_type_ids")
            if self.pictures and types is not None and not types.any():
                # if pictures are not of type 1, type 1 marks the answer, which the question must not attend to
                # (PaliGemma)
                grown["token_type_ids"] = torch.ones_like(none)
            tokens = {key: torch.cat([value, grown.get(key, none)], dim=1) for key, value in tokens.items()}
        return Pair(index, tokens, self.vision, self.pictures)


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Positions in a padded batch of b samples and s positions; N is the maximum number of visual tokens of a sample.

    Attributes:
        last: (b,) position of each sample's last token.
        real: (b, s) true for tokens, false for padding.
        suffix: (b, s) true for the tokens after the last visual token.
        visual: (b, N) positions of the visual tokens, padded with 0.
        visual_real: (b, N) true where ``visual`` holds a position.
    """

    last: Tensor
    real: Tensor
    suffix: Tensor
    visual: Tensor
    visual_real: Tensor

    def to(self, device: torch.device) -> Layout:
        """Return a copy on ``device``."""
        return Layout(
            *(
                getattr(self, name).to(device, non_blocking=True)
                for name in ("last", "real", "suffix", "visual", "visual_real")
            )
        )


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Pairs padded to one length, on the CPU: the model's inputs and their layout."""

    pairs: tuple[Pair, ...]
    inputs: dict[str, Tensor]
    layout: Layout


class Sample(Protocol):
    """An element that can be packed: it has a length in tokens and a position among the prompts."""

    @property
    def index(self) -> int: ...

    @property
    def length(self) -> int: ...


Packed = TypeVar("Packed", bound=Sample)


def pack(
    samples: Sequence[Packed], token_budget: int, kind_of: Callable[[Packed], object] = lambda _: None
) -> list[list[Packed]]:
    """Group samples so that a group, padded to its longest, has at most ``token_budget`` tokens.

    Samples are sorted by length, longest first, so that there is little padding and a group that does not fit in
    memory fails first. A group holds samples of one kind only. A sample longer than the budget gets its own group.
    """
    groups: dict[object, list[Packed]] = {}
    for sample in samples:
        groups.setdefault(kind_of(sample), []).append(sample)
    return [
        chunk
        for group in groups.values()
        for chunk in _chunks(sorted(group, key=lambda sample: (-sample.length, sample.index)), token_budget)
    ]


def kind_of(pair: Pair) -> object:
    """Return a key that is equal for pairs that can share a batch: same inputs, same number of pictures."""
    return frozenset(pair.tokens), frozenset(pair.vision), len(pair.pictures)


def _chunks(pairs: Sequence[Packed], token_budget: int) -> Iterator[list[Packed]]:
    chunk: list[Packed] = []
    for pair in pairs:
        # the first pair of a chunk is its longest
        if chunk and chunk[0].length * (len(chunk) + 1) > token_budget:
            yield chunk
            chunk = []
        chunk.append(pair)
    if chunk:
        yield chunk


def collate(pairs: Sequence[Pair], *, pad_token: int, image_token: int) -> Batch:
    """Pad pairs to the longest, on the right.

    With right padding every token keeps the position it has without padding, for any kind of position ids, and a
    causal model never attends to later positions.
    """
    length = max(pair.length for pair in pairs)
    inputs: dict[str, Tensor] = {}
    for key in pairs[0].tokens:
        fill = pad_token if key == "input_ids" else 0
        rows = [torch.nn.functional.pad(pair.tokens[key], (0, length - pair.length), value=fill) for pair in pairs]
        inputs[key] = torch.cat(rows)
    lengths = torch.tensor([pair.length for pair in pairs])
    real = torch.arange(length)[None, :] < lengths[:, None]
    inputs["attention_mask"] = real.long()
    for key in pairs[0].vision:
        inputs[key] = join([pair.vision[key] for pair in pairs])
    return Batch(tuple(pairs), inputs, _layout(inputs["input_ids"], lengths, real, image_token))


def join(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate the pictures of several samples.

    The first dimension counts pictures, patches or samples, depending on the model family. If the others differ (a
    sample of two pictures next to a sample of one), the smaller ones are padded with zeros, which the models ignore.
    """
    if len(parts) == 1:
        return parts[0]
    sizes = [max(dimension) for dimension in zip(*(part.shape[1:] for part in parts), strict=True)]
    padded = []
    for part in parts:
        grow = [size - now for size, now in zip(sizes, part.shape[1:], strict=True)]
        if any(grow):
            part = torch.nn.functional.pad(part, [side for by in reversed(grow) for side in (0, by)])
        padded.append(part)
    return torch.cat(padded)


def _layout(ids: Tensor, lengths: Tensor, real: Tensor, image_token: int) -> Layout:
    is_visual = (ids == image_token) & real
    counts = is_visual.sum(dim=1)
    positions = torch.arange(ids.shape[1])
    visual_real = torch.arange(int(counts.max()))[None, :] < counts[:, None]
    visual = torch.zeros(visual_real.shape, dtype=torch.long)
    # both sides enumerate the visual tokens by sample, left to right
    visual[visual_real] = positions.expand_as(ids)[is_visual]
    last_visual = torch.where(is_visual, positions, -1).amax(dim=1)
    suffix = real & (positions[None, :] > last_visual[:, None])
    return Layout(lengths - 1, real, suffix, visual, visual_real)
