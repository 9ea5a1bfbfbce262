"""The mode ``choice``: two neutral letters mean match and no match, in both orders (FreeRet, arXiv 2509.24621)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from retllm.fine.engine import Engine, Prompt, PromptAnswer
from retllm.fine.labels import both_labels
from retllm.fine.model import LoadedModel
from retllm.fine.modes.interface import PendingScores, ScoreTask, check_readable, finite_or_nan
from retllm.fine.odds import binary_entropy, log_sigmoid, mean_log_odds
from retllm.fine.prompts import Prompts, Wording
from retllm.fine.scores import PairScore
from retllm.fine.trigger import label_mass, label_odds


class Choice:
    """Scores with two passes that share a prefix: the mean over both orders of the softmax over the two letters.

    The score's fields about re-injection are those of the first pass, in which the first letter means a match. The
    second pass has its own uncertainty and may be injected at another layer.

    Raises:
        ModelUnsuited: a letter is not a single token of the model.
    """

    wordings: ClassVar[tuple[Wording, ...]] = ("choice", "choice_swapped")
    answer_tokens: ClassVar[int] = 0

    def __init__(self, prompts: Prompts, loaded: LoadedModel) -> None:
        first, second = both_labels(loaded.preparer, prompts, "choice")
        self._prompts = prompts
        self._first = torch.tensor(first, device=loaded.module.device)
        self._second = torch.tensor(second, device=loaded.module.device)

    def score(self, engine: Engine, task: ScoreTask) -> PendingScores:
        """Ask two questions for each candidate in one call, so that their shared prefix is computed once."""
        asks = [
            Prompt(pair.place, self._prompts.message(order, pair.query, pair.candidate), recorded=order == "choice")
            for pair in task.pairs
            for order in self.wordings
        ]
        pending = engine.answer(asks, self._read)

        def read_scores() -> list[PairScore]:
            answers = pending.read()
            return [
                _pair_score(ask, first, second)
                for ask, first, second in zip(asks[::2], answers[::2], answers[1::2], strict=True)
            ]

        return read_scores

    def _read(self, logits: Tensor) -> Tensor:
        """Return the log-odds of the first letter against the second, and the probability of both, in all spellings."""
        odds = finite_or_nan(logits.float(), label_odds(logits, self._first, self._second))
        mass = label_mass(logits, torch.cat([self._first, self._second]))
        return torch.stack([odds, mass], dim=1)


def _pair_score(ask: Prompt, match_first: PromptAnswer, match_second: PromptAnswer) -> PairScore:
    first, second = match_first.values[0], -match_second.values[0]
    check_readable(ask, first, second)
    log_odds = mean_log_odds(first, second)
    return PairScore(
        score=math.exp(log_sigmoid(log_odds)),
        log_odds=log_odds,
        entropy=binary_entropy(log_odds),
        injected_layer=match_first.injected_layer,
        uncertainty=match_first.uncertainty,
        tokens=match_first.tokens,
        mass=min(match_first.values[1], match_second.values[1], 1.0),
    )
