"""The mode ``true_false``: one forward pass, P("True") over the whole vocabulary."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from retllm.fine.engine import Engine, Prompt, PromptAnswer
from retllm.fine.model import LoadedModel, both_labels
from retllm.fine.modes.interface import PendingScores, ScoreTask, check_readable
from retllm.fine.prompts import Prompts, Wording
from retllm.fine.scores import PairScore
from retllm.fine.trigger import label_probability


class TrueFalse:
    """Scores with one pass: P("True") over the full vocabulary at the last position, and that distribution's entropy.

    Raises:
        ModelUnsuited: "True" or "False" is not a single token of the model.
    """

    wordings: ClassVar[tuple[Wording, ...]] = ("true_false",)
    answer_tokens: ClassVar[int] = 0

    def __init__(self, prompts: Prompts, loaded: LoadedModel) -> None:
        positive, _ = both_labels(loaded.preparer, prompts.labels["true_false"])
        self._prompts = prompts
        self._labels = torch.tensor(positive, device=loaded.module.device)

    def score(self, engine: Engine, task: ScoreTask) -> PendingScores:
        """Ask one question for each candidate."""
        asks = [
            Prompt(pair.place, self._prompts.message("true_false", pair.query, pair.candidate)) for pair in task.pairs
        ]
        pending = engine.answer(asks, self._read)
        return lambda: [_pair_score(ask, answer) for ask, answer in zip(asks, pending.read(), strict=True)]

    def _read(self, logits: Tensor) -> Tensor:
        return torch.stack(label_probability(logits, self._labels), dim=1)


def _pair_score(ask: Prompt, answer: PromptAnswer) -> PairScore:
    score, log_odds, entropy = answer.values
    check_readable(ask, score, entropy)
    return PairScore(
        score=min(score, 1.0),
        log_odds=log_odds,
        entropy=entropy,
        injected_layer=answer.injected_layer,
        uncertainty=answer.uncertainty,
        tokens=answer.tokens,
    )
