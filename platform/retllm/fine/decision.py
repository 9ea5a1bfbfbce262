"""The final order of a search: score, then entropy, then coarse rank (method section 5; RetLLM eq. 7 and 8)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from retllm.errors import InvalidInput
from retllm.fine.prompts import Mode

Key = TypeVar("Key", bound=Hashable)
DecidedBy = Literal["score", "entropy", "coarse"]


@dataclass(frozen=True, slots=True)
class Scored(Generic[Key]):
    """A candidate, as input of the final order.

    Attributes:
        key: identifies the candidate.
        coarse_rank: smaller is better.
        score: the fine score; None if there is none (beyond the pool, not yet scored, failed).
        entropy: the uncertainty of that score in nats, if known.
        failed: the fine stage tried and got no score (for example, a written answer without a number), so that only
            the coarse rank is known; ``score`` is ignored.
    """

    key: Key
    coarse_rank: int
    score: float | None = None
    entropy: float | None = None
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Ranked(Generic[Key]):
    """A candidate with its final rank.

    Attributes:
        key: as given.
        rank: 1 for the best.
        decided_by: ``score``: no other candidate has the same rounded score; ``entropy``: others have the same score,
            and none of them the same entropy; ``coarse``: it has no score, or shares score and entropy with another,
            so that the coarse rank decided.
    """

    key: Key
    rank: int
    decided_by: DecidedBy


def final_order(rows: Sequence[Scored[Key]], tie_decimals: int = 4) -> list[Ranked[Key]]:
    """Order candidates by (score rounded to ``tie_decimals`` descending, entropy ascending, coarse rank ascending).

    Pure function: the order of the rows does not matter. Candidates without a score keep their coarse order below all
    that have one. A failed candidate keeps its coarse rank, and the others are ordered around it, since there is no
    reason to move it up or down. A NaN score counts as none; a missing entropy loses every tie.

    Raises:
        InvalidInput: ``tie_decimals`` is not 0 to 15, or two candidates share a coarse rank, which would make the
            order undefined.
    """
    _check(tie_decimals)
    if len({row.coarse_rank for row in rows}) != len(rows):
        raise InvalidInput("Two candidates have the same coarse rank.", field="coarse_rank")
    keys = {row.coarse_rank: _sort_key(row, tie_decimals) for row in rows}
    by_score = Counter(score for score, _ in keys.values())
    by_both = Counter(keys.values())

    def decided_by(row: Scored[Key]) -> DecidedBy:
        key = keys[row.coarse_rank]
        if math.isinf(key[0]):
            return "coarse"
        if by_score[key[0]] == 1:
            return "score"
        return "entropy" if by_both[key] == 1 else "coarse"

    moving = iter(sorted((row for row in rows if not row.failed), key=lambda r: (*keys[r.coarse_rank], r.coarse_rank)))
    coarse = sorted(rows, key=lambda row: row.coarse_rank)
    ordered = [row if row.failed else next(moving) for row in coarse]
    return [Ranked(row.key, rank, decided_by(row)) for rank, row in enumerate(ordered, start=1)]


def tied(rows: Sequence[Scored[Key]], tie_decimals: int = 4) -> list[Key]:
    """Return the candidates that share their rounded score with another and have no entropy yet, in coarse order.

    Raises:
        InvalidInput: ``tie_decimals`` is not 0 to 15.
    """
    _check(tie_decimals)
    scores = {row.coarse_rank: _sort_key(row, tie_decimals)[0] for row in rows}
    shared = {score for score, times in Counter(scores.values()).items() if times > 1 and not math.isinf(score)}
    coarse = sorted(rows, key=lambda row: row.coarse_rank)
    return [row.key for row in coarse if scores[row.coarse_rank] in shared and row.entropy is None]


def default_tie_decimals(mode: Mode) -> int:
    """Return the decimals to which scores are compared: 2 if the model writes them, 4 for probabilities (section 5)."""
    return 2 if mode == "verbalized" else 4


def _check(tie_decimals: int) -> None:
    if not 0 <= tie_decimals <= 15:
        raise InvalidInput(f"tie_decimals must be 0 to 15, not {tie_decimals}.", field="tie_decimals")


def _sort_key(row: Scored[Key], tie_decimals: int) -> tuple[float, float]:
    """Return the ascending sort key; infinite without a score."""
    if row.failed or row.score is None or math.isnan(row.score):
        return math.inf, math.inf
    entropy = math.inf if row.entropy is None or math.isnan(row.entropy) else row.entropy
    return -round(row.score, tie_decimals), entropy
