"""What a scorer gives back, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

from retllm.fine.trace import Trace


@dataclass(frozen=True, slots=True)
class PairScore:
    """The judgement of one (query, candidate) pair.

    Attributes:
        score: 0 to 1, by the mode (method section 3): probability of "True" over the full vocabulary; the number that
            the model wrote; or the mean probability of the letter that stands for a match. None only with ``error``.
        log_odds: ln(score / (1 - score)), where known more finely than the score; None only with ``error``.
        entropy: the uncertainty in nats; None where the mode asks for it in a pass of its own that was not made.
        injected_layer: the decoder layer, from 0, whose feed-forward output was mixed; None if none was.
        uncertainty: the early reading, 0 to 1, that armed it; None unless the ``entropy`` trigger did.
        tokens: length of the pair, visual tokens included.
        error: why there is no score, in words for people; the candidate keeps its coarse place.
        trace: how the score came about; None unless asked for, and for a pair with no picture.
    """

    score: float | None
    log_odds: float | None
    entropy: float | None
    injected_layer: int | None
    uncertainty: float | None
    tokens: int
    error: str | None = None
    trace: Trace | None = None


@dataclass(frozen=True, slots=True)
class ScorerInfo:
    """What a scorer is.

    Attributes:
        model: its name as asked for.
        revision: the hub's commit, or a hash of the folder's contents.
        prompt_version: of the questions it puts.
        device, dtype: where and in what precision it computes, as torch names them.
        layers: number of decoder layers.
        picture_tokens: most tokens that it takes for one picture.
    """

    model: str
    revision: str
    prompt_version: str
    device: str
    dtype: str
    layers: int
    picture_tokens: int
