"""The mode ``verbalized``: the model writes the score as a number (RetLLM, arXiv 2602.22278)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from retllm.fine.engine import Engine, Prompt, PromptAnswer
from retllm.fine.model import LoadedModel, answer_ends
from retllm.fine.modes.interface import PendingScores, ScoreTask, check_readable, finite_or_nan
from retllm.fine.odds import clipped_log_odds
from retllm.fine.prepare import Preparer
from retllm.fine.prompts import Prompts, Wording
from retllm.fine.scores import PairScore
from retllm.fine.written import MAX_NEW_TOKENS, Written, truncated_answer, written_score


@dataclass(slots=True, eq=False)
class _Writing:
    """The state of one answer."""

    ask: Prompt
    first: PromptAnswer | None = None
    tokens: list[int] = field(default_factory=list)
    written: Written | None = None


class Verbalized:
    """Decodes greedily until the model has written a number, at most :data:`MAX_NEW_TOKENS` tokens.

    Each token is a pass over the question and the answer so far, with re-injection as in any pass. The score's fields
    about re-injection are those of the first token's pass. The entropy is None: method section 3 takes it from a
    ``true_false`` pass, which is run for tied candidates only.
    """

    wordings: ClassVar[tuple[Wording, ...]] = ("verbalized",)
    answer_tokens: ClassVar[int] = MAX_NEW_TOKENS

    def __init__(self, prompts: Prompts, loaded: LoadedModel) -> None:
        self._prompts = prompts
        self._preparer = loaded.preparer
        self._ends = answer_ends(loaded)

    def score(self, engine: Engine, task: ScoreTask) -> PendingScores:
        """Decode all answers in parallel, without those that are complete. Waits for the device at each token."""
        writings = [
            _Writing(Prompt(pair.place, self._prompts.message("verbalized", pair.query, pair.candidate)))
            for pair in task.pairs
        ]
        for _ in range(MAX_NEW_TOKENS):
            growing = [writing for writing in writings if writing.written is None]
            if not growing:
                break
            asks = [replace(writing.ask, answer_tokens=tuple(writing.tokens)) for writing in growing]
            answers = engine.answer(asks, most_likely).read()
            for writing, answer in zip(growing, answers, strict=True):
                self._grow(writing, answer)
        scores = [_pair_score(writing, self._preparer) for writing in writings]
        return lambda: scores

    def _grow(self, writing: _Writing, answer: PromptAnswer) -> None:
        check_readable(writing.ask, *answer.values)
        if writing.first is None:
            writing.first = answer
        token = int(answer.values[0])
        if token in self._ends:
            writing.written = written_score(self._preparer.decode(writing.tokens), ended=True)
            return
        writing.tokens.append(token)
        writing.written = written_score(self._preparer.decode(writing.tokens), ended=False)


def most_likely(logits: Tensor) -> Tensor:
    """Return (b, 1), the token with the largest of the logits (b, vocabulary), as a float: exact for ids up to 2^24."""
    return finite_or_nan(logits, logits.argmax(dim=-1).to(torch.float32))[:, None]


def _pair_score(writing: _Writing, preparer: Preparer) -> PairScore:
    written = writing.written or truncated_answer(preparer.decode(writing.tokens), MAX_NEW_TOKENS)
    assert writing.first is not None
    return PairScore(
        score=written.score,
        log_odds=None if written.score is None else clipped_log_odds(written.score),
        entropy=None,
        injected_layer=writing.first.injected_layer,
        uncertainty=writing.first.uncertainty,
        tokens=writing.first.tokens,
        error=written.error,
    )
