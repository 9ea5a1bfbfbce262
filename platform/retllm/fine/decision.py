"""The final order of a search: score, then entropy, then coarse rank (method section 5; RetLLM eq. 7 and 8)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from retllm.errors import InvalidInput

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
    """

    key: Key
    coarse_rank: int
    score: float | None = None
    entropy: float | None = None


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
    score keep their coarse order below all that have one. A score that is no number counts as none; a missing
    entropy loses every tie.

    Raises:
        InvalidInput: ``tie_decimals`` is not 0 to 15, or two candidates share a coarse rank, which would leave
            the order to chance.
    """
    if not 0 <= tie_decimals <= 15:
        raise InvalidInput(f"tie_decimals must be 0 to 15, not {tie_decimals}.", field="tie_decimals")
    if len({row.coarse_rank for row in rows}) != len(rows):
        raise InvalidInput("Two candidates have the same coarse rank.", field="coarse_rank")

    def place(row: Scored[Key]) -> tuple[float, float]:
        if row.score is None or math.isnan(row.score):
            return math.inf, math.inf
        entropy = math.inf if row.entropy is None or math.isnan(row.entropy) else row.entropy
        return -round(row.score, tie_decimals), entropy

    places = {row.coarse_rank: place(row) for row in rows}
    by_score = Counter(score for score, _ in places.values())
    by_both = Counter(places.values())

    def decided_by(row: Scored[Key]) -> DecidedBy:
        where = places[row.coarse_rank]
        if math.isinf(where[0]):
            return "coarse"
        if by_score[where[0]] == 1:
            return "score"
        return "entropy" if by_both[where] == 1 else "coarse"

    ordered = sorted(rows, key=lambda row: (*places[row.coarse_rank], row.coarse_rank))
    return [Ranked(row.key, rank, decided_by(row)) for rank, row in enumerate(ordered, start=1)]
