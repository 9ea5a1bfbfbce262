"""The ways of asking (method section 3): which questions a mode puts, and what it makes of the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from retllm.errors import ScoreUnreadable
from retllm.fine.content import Content
from retllm.fine.engine import Answer, Ask, Engine
from retllm.fine.model import both_labels
from retllm.fine.prepare import Preparer
from retllm.fine.prompts import Mode, Prompts
from retllm.fine.scores import PairScore
from retllm.fine.trigger import label_probability


@dataclass(frozen=True, slots=True, eq=False)
class Matter:
    """What is judged: a query, and candidates with their places in the call."""

    query: Content
    candidates: Sequence[tuple[int, Content]]


Verdicts = Callable[[], list[PairScore]]
"""Waits for the device and gives the scores, in the candidates' order."""


class Judge(Protocol):
    """One way of asking, for one model."""

    def judge(self, engine: Engine, matter: Matter) -> Verdicts:
        """Put the questions; does not wait for the answers where it need not.

        Raises:
            What :meth:`Engine.answer` does; the verdicts raise ScoreUnreadable.
        """


class TrueFalse:
    """One pass: P("True") over the full vocabulary at the last position, and the entropy of that distribution."""

    def __init__(self, prompts: Prompts, preparer: Preparer, device: torch.device) -> None:
        positive, _ = both_labels(preparer, prompts.labels["true_false"])
        self._prompts = prompts
        self._labels = torch.tensor(positive, device=device)

    def judge(self, engine: Engine, matter: Matter) -> Verdicts:
        """One question for each candidate."""
        asks = [
            Ask(place, self._prompts.message("true_false", matter.query, candidate))
            for place, candidate in matter.candidates
        ]
        pending = engine.answer(asks, self._read)
        return lambda: [_verdict(ask, answer) for ask, answer in zip(asks, pending.read(), strict=True)]

    def _read(self, logits: Tensor) -> Tensor:
        return torch.stack(label_probability(logits, self._labels), dim=1)


def _verdict(ask: Ask, answer: Answer) -> PairScore:
    score, log_odds, entropy = answer.values
    if score != score or entropy != entropy:
        raise ScoreUnreadable(
            "The model's answer is not a finite number; its precision may be too low (try bfloat16 or float32).",
            index=ask.candidate,
        )
    return PairScore(
        score=min(score, 1.0),
        log_odds=log_odds,
        entropy=entropy,
        injected_layer=answer.injected_layer,
        uncertainty=answer.uncertainty,
        tokens=answer.tokens,
    )


def make_judge(mode: Mode, prompts: Prompts, preparer: Preparer, device: torch.device) -> Judge:
    """The judge of one mode.

    Raises:
        ModelUnsuited: the model can't be asked this way.
    """
    return {"true_false": TrueFalse}[mode](prompts, preparer, device)
