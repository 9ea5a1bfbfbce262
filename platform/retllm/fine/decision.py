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
    """A candidate as the decision sees it.

    Attributes:
        key: whatever names the candidate.
        coarse_rank: its place in the coarse stage; smaller is better.
        score: the fine score; None when there is none (beyond the pool, not yet scored, failed).
        entropy: the uncertainty of that score in nats, where known.
        failed: the fine stage looked at it and could not tell (a written answer without a number, say), so that only
            its coarse place is known; a score beside it does not count.
    """

    key: Key
    coarse_rank: int
    score: float | None = None
    entropy: float | None = None
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Ranked(Generic[Key]):
    """A candidate in its final place.

    Attributes:
        key: as given.
        rank: 1 for the best.
        decided_by: ``score``: no other candidate has the same rounded score; ``entropy``: others tie with it in
            score, and its entropy tells it from all of them; ``coarse``: it has no score, or shares score and
            entropy with another, so that the coarse order placed it.
    """

    key: Key
    rank: int
    decided_by: DecidedBy


def final_order(rows: Sequence[Scored[Key]], tie_decimals: int = 4) -> list[Ranked[Key]]:
    """Order candidates by (score rounded to ``tie_decimals`` descending, entropy ascending, coarse rank ascending).

    A pure function: the same rows give the same order whatever order they come in. Candidates without a
    score keep their coarse order below all that have one. A failed one stays exactly where it is in the coarse order,
    and the others are ordered around it: nothing speaks for moving it up or down. A score that is no number counts
    as none; a missing entropy loses every tie.

    Raises:
        InvalidInput: ``tie_decimals`` is not 0 to 15, or two candidates share a coarse rank, which would leave
            the order to chance.
    """
    _check(tie_decimals)
    if len({row.coarse_rank for row in rows}) != len(rows):
        raise InvalidInput("Two candidates have the same coarse rank.", field="coarse_rank")
    places = {row.coarse_rank: _place(row, tie_decimals) for row in rows}
    by_score = Counter(score for score, _ in places.values())
    by_both = Counter(places.values())

    def decided_by(row: Scored[Key]) -> DecidedBy:
        where = places[row.coarse_rank]
        if math.isinf(where[0]):
            return "coarse"
        if by_score[where[0]] == 1:
            return "score"
        return "entropy" if by_both[where] == 1 else "coarse"

    moving = iter(
        sorted((row for row in rows if not row.failed), key=lambda r: (*places[r.coarse_rank], r.coarse_rank))
    )
    coarse = sorted(rows, key=lambda row: row.coarse_rank)
    ordered = [row if row.failed else next(moving) for row in coarse]
    return [Ranked(row.key, rank, decided_by(row)) for rank, row in enumerate(ordered, start=1)]


def tied(rows: Sequence[Scored[Key]], tie_decimals: int = 4) -> list[Key]:
    """The candidates whose entropy would decide a tie and is not known yet, in coarse order.

    That is, those that share their rounded score with another and have no entropy.

    Raises:
        InvalidInput: ``tie_decimals`` is not 0 to 15.
    """
    _check(tie_decimals)
    places = {row.coarse_rank: _place(row, tie_decimals)[0] for row in rows}
    shared = {score for score, times in Counter(places.values()).items() if times > 1 and not math.isinf(score)}
    coarse = sorted(rows, key=lambda row: row.coarse_rank)
    return [row.key for row in coarse if places[row.coarse_rank] in shared and row.entropy is None]


def default_tie_decimals(mode: Mode) -> int:
    """How many decimals tell two scores apart: 2 for numbers that a model writes, 4 for probabilities (section 5)."""
    return 2 if mode == "verbalized" else 4


def _check(tie_decimals: int) -> None:
    if not 0 <= tie_decimals <= 15:
        raise InvalidInput(f"tie_decimals must be 0 to 15, not {tie_decimals}.", field="tie_decimals")


def _place(row: Scored[Key], tie_decimals: int) -> tuple[float, float]:
    """What it is sorted by, ascending; infinite where there is no score."""
    if row.failed or row.score is None or math.isnan(row.score):
        return math.inf, math.inf
    entropy = math.inf if row.entropy is None or math.isnan(row.entropy) else row.entropy
    return -round(row.score, tie_decimals), entropy
