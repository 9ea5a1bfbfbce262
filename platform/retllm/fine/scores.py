"""The results of a scorer, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

from retllm.fine.trace import Trace


@dataclass(frozen=True, slots=True)
class PairScore:
    """The score of one (query, candidate) pair.

    Attributes:
        score: 0 to 1, by mode (method section 3): probability of "True" over the full vocabulary, or for a profile of
            labels its share of both answers; the number that the model wrote; or the mean probability of the letter for
            a match. None only with ``error``.
        log_odds: ln(score / (1 - score)), if possible with higher precision than the score; None only with ``error``.
        entropy: the uncertainty in nats; None if the mode needs a separate pass for it and that was not run.
        injected_layer: the decoder layer, from 0, whose feed-forward output was mixed; None if none was.
        uncertainty: the early reading, 0 to 1, that armed it; None unless the ``entropy`` trigger did.
        tokens: length of the pair, visual tokens included.
        error: why there is no score, for people; the candidate keeps its coarse rank.
        remark: what of the pair was changed for the model, for people: a picture padded, a text shortened.
        trace: how the score was computed; None if not requested, and for a pair without a picture.
        mass: probability that the model gives to both labels together, the smaller one of two questions; None if the
            mode has no labels, or if it is not known.
    """

    score: float | None
    log_odds: float | None
    entropy: float | None
    injected_layer: int | None
    uncertainty: float | None
    tokens: int
    error: str | None = None
    remark: str | None = None
    trace: Trace | None = None
    mass: float | None = None


@dataclass(frozen=True, slots=True)
class ScorerInfo:
    """Description of a scorer.

    Attributes:
        model: its name as requested.
        revision: the hub's commit, or a hash of the folder's contents.
        prompt_version: version of its prompts, and the name of its profile.
        device, dtype: device and precision, as torch names them.
        layers: number of decoder layers.
        picture_tokens: maximum number of tokens of one picture.
    """

    model: str
    revision: str
    prompt_version: str
    device: str
    dtype: str
    layers: int
    picture_tokens: int
