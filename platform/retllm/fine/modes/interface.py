"""The interface of all modes: ask an engine about the pairs of a task, and compute scores from its answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from retllm.errors import ScoreUnreadable
from retllm.fine.engine import Engine, Prompt
from retllm.fine.fitting import AskedPair
from retllm.fine.prompts import Wording
from retllm.fine.scores import PairScore


@dataclass(frozen=True, slots=True, eq=False)
class ScoreTask:
    """The pairs to score."""

    pairs: Sequence[AskedPair]


PendingScores = Callable[[], list[PairScore]]
"""Waits for the device and returns the scores in the order of the candidates."""


class ModeScorer(Protocol):
    """Scores pairs in one mode with one model.

    Attributes:
        wordings: of the questions about a pair.
        answer_tokens: maximum number of tokens that the model writes.
    """

    wordings: ClassVar[tuple[Wording, ...]]
    answer_tokens: ClassVar[int]

    def score(self, engine: Engine, task: ScoreTask) -> PendingScores:
        """Ask the questions, if possible without waiting for the answers.

        Raises:
            The errors of :meth:`Engine.answer`; ScoreUnreadable, here or from the pending scores.
        """


def finite_or_nan(logits: Tensor, values: Tensor) -> Tensor:
    """Return ``values`` (b,), with NaN for samples whose logits (b, vocabulary) have no finite logsumexp.

    A reader that uses only a few logits would otherwise miss an overflow in the others.
    """
    return torch.where(logits.logsumexp(dim=-1).isfinite(), values, torch.nan)


def check_readable(ask: Prompt, *values: float) -> None:
    """Check that no value of an answer is NaN.

    Raises:
        ScoreUnreadable: a value is NaN; the error names the candidate.
    """
    if any(value != value for value in values):
        raise ScoreUnreadable(
            "The model's answer is not a finite number; its precision may be too low (try bfloat16 or float32).",
            index=ask.candidate,
        )
