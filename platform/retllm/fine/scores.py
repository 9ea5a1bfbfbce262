"""What a scorer gives back, as plain values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PairScore:
    """The judgement of one (query, candidate) pair.

    Attributes:
        score: probability of "True" over the full vocabulary, 0 to 1 (method section 3).
        entropy: of that distribution, in nats.
        injected_layer: the decoder layer, from 0, whose feed-forward output was mixed; None if none was.
        uncertainty: the early reading, 0 to 1, that armed it; None unless the ``entropy`` trigger did.
        tokens: length of the pair, visual tokens included.
    """

    score: float
    entropy: float
    injected_layer: int | None
    uncertainty: float | None
    tokens: int


@dataclass(frozen=True, slots=True)
class ScorerInfo:
    """What a scorer is.

    Attributes:
        model: its name as asked for.
        revision: the hub's commit, or a hash of the folder's contents.
        prompt_version: of the questions it puts.
        device, dtype: where and in what precision it computes, as torch names them.
        layers: number of decoder layers.
    """

    model: str
    revision: str
    prompt_version: str
    device: str
    dtype: str
    layers: int
