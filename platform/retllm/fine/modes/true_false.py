"""The mode ``true_false``: one forward pass, P("True") over the whole vocabulary, or as a share of both labels."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from retllm.fine.engine import Engine, Prompt, PromptAnswer
from retllm.fine.labels import both_labels
from retllm.fine.model import LoadedModel
from retllm.fine.modes.interface import PendingScores, ScoreTask, check_readable, finite_or_nan
from retllm.fine.odds import binary_entropy, log_sigmoid
from retllm.fine.prompts import Prompts, Wording
from retllm.fine.scores import PairScore
from retllm.fine.trigger import label_mass, label_odds, label_probability


class TrueFalse:
    """Scores with one pass: P("True") over the full vocabulary at the last position, and that distribution's entropy.

    With a profile of labels: the share of the positive label of both, and the binary entropy of that.

    Raises:
        ModelUnsuited: "True" or "False" is not a single token of the model.
    """

    wordings: ClassVar[tuple[Wording, ...]] = ("true_false",)
    answer_tokens: ClassVar[int] = 0

    def __init__(self, prompts: Prompts, loaded: LoadedModel) -> None:
        positive, negative = both_labels(loaded.preparer, prompts, "true_false")
        self._prompts = prompts
        device = loaded.module.device
        self._positive, self._negative = torch.tensor(positive, device=device), torch.tensor(negative, device=device)
        self._both = torch.cat([self._positive, self._negative])

    def score(self, engine: Engine, task: ScoreTask) -> PendingScores:
        """Ask one question for each candidate."""
        asks = [
            Prompt(pair.place, self._prompts.message("true_false", pair.query, pair.candidate)) for pair in task.pairs
        ]
        pending = engine.answer(asks, self._read)
        of_labels = self._prompts.of_labels
        return lambda: [_pair_score(ask, answer, of_labels) for ask, answer in zip(asks, pending.read(), strict=True)]

    def _read(self, logits: Tensor) -> Tensor:
        score, log_odds, entropy = label_probability(logits, self._positive)
        if self._prompts.of_labels:
            log_odds = finite_or_nan(logits.float(), label_odds(logits, self._positive, self._negative))
        return torch.stack([score, log_odds, entropy, label_mass(logits, self._both)], dim=1)


def _pair_score(ask: Prompt, answer: PromptAnswer, of_labels: bool) -> PairScore:
    score, log_odds, entropy, mass = answer.values
    check_readable(ask, score, entropy)
    if of_labels:
        score, entropy = math.exp(log_sigmoid(log_odds)), binary_entropy(log_odds)
    return PairScore(
        score=min(score, 1.0),
        log_odds=log_odds,
        entropy=entropy,
        injected_layer=answer.injected_layer,
        uncertainty=answer.uncertainty,
        tokens=answer.tokens,
        mass=min(mass, 1.0),
    )
