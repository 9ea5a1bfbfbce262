"""The mode ``verbalized``: the model writes the score as a number (RetLLM, arXiv 2602.22278)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from retllm.fine.engine import Engine, Prompt, PromptAnswer
from retllm.fine.model import LoadedModel, answer_ends
from retllm.fine.modes.judge import Matter, Verdicts, check_readable, finite_or_nan
from retllm.fine.modes.written import Written, broken_off, written_score
from retllm.fine.prepare import Preparer
from retllm.fine.prompts import Prompts
from retllm.fine.scores import PairScore

MAX_NEW_TOKENS = 16
"""Longest answer that is waited for."""

#: a written 0 or 1 has no finite log-odds; this far from them it stays
_MARGIN = 1e-6


@dataclass(slots=True, eq=False)
class _Writing:
    """One answer as it grows."""

    ask: Prompt
    first: PromptAnswer | None = None
    said: list[int] = field(default_factory=list)
    written: Written | None = None


class Verbalized:
    """Greedy decoding until the model has written a number, at most :data:`MAX_NEW_TOKENS` tokens.

    Each token is a pass over the question and what was said so far, with re-injection as in any pass. What a score
    says of re-injection is that of the pass for the first token. The entropy is left None: method section 3 asks
    for it in a ``true_false`` pass, which is worth its time for tied candidates only.
    """

    def __init__(self, prompts: Prompts, loaded: LoadedModel) -> None:
        self._prompts = prompts
        self._preparer = loaded.preparer
        self._ends = answer_ends(loaded)

    def judge(self, engine: Engine, matter: Matter) -> Verdicts:
        """Write all answers side by side; those that are finished drop out. Waits for the device at each token."""
        writings = [
            _Writing(Prompt(place, self._prompts.message("verbalized", matter.query, candidate)))
            for place, candidate in matter.candidates
        ]
        for _ in range(MAX_NEW_TOKENS):
            growing = [writing for writing in writings if writing.written is None]
            if not growing:
                break
            asks = [replace(writing.ask, said=tuple(writing.said)) for writing in growing]
            answers = engine.answer(asks, most_likely).read()
            for writing, answer in zip(growing, answers, strict=True):
                self._grow(writing, answer)
        scores = [_verdict(writing, self._preparer) for writing in writings]
        return lambda: scores

    def _grow(self, writing: _Writing, answer: PromptAnswer) -> None:
        check_readable(writing.ask, *answer.values)
        if writing.first is None:
            writing.first = answer
        token = int(answer.values[0])
        if token in self._ends:
            writing.written = written_score(self._preparer.decode(writing.said), ended=True)
            return
        writing.said.append(token)
        writing.written = written_score(self._preparer.decode(writing.said), ended=False)


def most_likely(logits: Tensor) -> Tensor:
    """(b, vocabulary) to (b, 1): the token with the largest logit, as a float, which holds ids up to 2^24 exactly."""
    return finite_or_nan(logits, logits.argmax(dim=-1).to(torch.float32))[:, None]


def _verdict(writing: _Writing, preparer: Preparer) -> PairScore:
    written = writing.written or broken_off(preparer.decode(writing.said), MAX_NEW_TOKENS)
    assert writing.first is not None
    return PairScore(
        score=written.score,
        log_odds=None if written.score is None else _log_odds(written.score),
        entropy=None,
        injected_layer=writing.first.injected_layer,
        uncertainty=writing.first.uncertainty,
        tokens=writing.first.tokens,
        error=written.error,
    )


def _log_odds(score: float) -> float:
    kept = min(max(score, _MARGIN), 1 - _MARGIN)
    return math.log(kept) - math.log1p(-kept)
