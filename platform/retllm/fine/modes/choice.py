"""The mode ``choice``: two neutral letters for match and no match, asked in both orders (FreeRet, arXiv 2509.24621)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from retllm.fine.engine import Engine, Prompt, PromptAnswer
from retllm.fine.model import LoadedModel, both_labels
from retllm.fine.modes.judge import Matter, Verdicts, check_readable, finite_or_nan
from retllm.fine.prompts import Prompts
from retllm.fine.scores import PairScore


class Choice:
    """Two passes with a shared beginning: the mean, over both orders, of the softmax over the two letters.

    What a score says of re-injection is that of the first order's pass, where the first letter means a match; the
    second order's pass reads its own uncertainty and may be injected elsewhere.

    Raises:
        ModelUnsuited: a letter is not a single token of the model.
    """

    def __init__(self, prompts: Prompts, loaded: LoadedModel) -> None:
        first, second = both_labels(loaded.preparer, prompts.labels["choice"])
        self._prompts = prompts
        self._first = torch.tensor(first, device=loaded.module.device)
        self._second = torch.tensor(second, device=loaded.module.device)

    def judge(self, engine: Engine, matter: Matter) -> Verdicts:
        """Two questions for each candidate, side by side, so that what they share need be computed once."""
        asks = [
            Prompt(place, self._prompts.message(order, matter.query, candidate), recorded=order == "choice")
            for place, candidate in matter.candidates
            for order in ("choice", "choice_swapped")
        ]
        pending = engine.answer(asks, self._read)

        def verdicts() -> list[PairScore]:
            answers = pending.read()
            return [
                _verdict(ask, one, other)
                for ask, one, other in zip(asks[::2], answers[::2], answers[1::2], strict=True)
            ]

        return verdicts

    def _read(self, logits: Tensor) -> Tensor:
        """The log-odds of the first letter against the second, each with the mass of all its spellings."""
        logits = logits.float()
        odds = logits[:, self._first].logsumexp(dim=-1) - logits[:, self._second].logsumexp(dim=-1)
        return finite_or_nan(logits, odds)[:, None]


def _verdict(ask: Prompt, match_first: PromptAnswer, match_second: PromptAnswer) -> PairScore:
    first, second = match_first.values[0], -match_second.values[0]
    check_readable(ask, first, second)
    log_odds = mean_log_odds(first, second)
    return PairScore(
        score=math.exp(_log_sigmoid(log_odds)),
        log_odds=log_odds,
        entropy=binary_entropy(log_odds),
        injected_layer=match_first.injected_layer,
        uncertainty=match_first.uncertainty,
        tokens=match_first.tokens,
    )


def mean_log_odds(one: float, other: float) -> float:
    """Log-odds of the mean of two probabilities, both given as log-odds; keeps apart what is close to 0 or to 1."""
    return _log_add(_log_sigmoid(one), _log_sigmoid(other)) - _log_add(_log_sigmoid(-one), _log_sigmoid(-other))


def binary_entropy(log_odds: float) -> float:
    """``-p ln p - (1 - p) ln (1 - p)`` in nats, of the p with these log-odds."""
    # where p is 0 or 1 to float precision, p ln p is 0
    logs = (_log_sigmoid(log_odds), _log_sigmoid(-log_odds))
    return sum(-math.exp(log) * log for log in logs if log > -700)


def _log_sigmoid(x: float) -> float:
    return min(x, 0.0) - math.log1p(math.exp(-abs(x)))


def _log_add(a: float, b: float) -> float:
    if a == b == -math.inf:
        return a
    return max(a, b) + math.log1p(math.exp(-abs(a - b)))
