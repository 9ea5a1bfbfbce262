"""What every way of asking is: questions about a matter, put to an engine, and scores made of its answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from retllm.errors import ScoreUnreadable
from retllm.fine.content import Content
from retllm.fine.engine import Engine, Prompt
from retllm.fine.scores import PairScore


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
            What :meth:`Engine.answer` does; ScoreUnreadable, here or from the verdicts.
        """


def finite_or_nan(logits: Tensor, values: Tensor) -> Tensor:
    """``values`` (b,), NaN in the samples whose logits (b, vocabulary) are no usable distribution.

    A reader that looks at a few logits only would else miss an overflow in the rest.
    """
    return torch.where(logits.logsumexp(dim=-1).isfinite(), values, torch.nan)


def check_readable(ask: Prompt, *values: float) -> None:
    """Refuse an answer of which a value is NaN.

    Raises:
        ScoreUnreadable: one is; it names the candidate.
    """
    if any(value != value for value in values):
        raise ScoreUnreadable(
            "The model's answer is not a finite number; its precision may be too low (try bfloat16 or float32).",
            index=ask.candidate,
        )
