"""Reciprocal rank fusion: merge several rankings of the same items (Cormack, Clarke and Buettcher, SIGIR 2009).

Only ranks are used, so sources with incomparable scores (cosines of two models, words of a caption) can be fused
without normalising them.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Generic, TypeVar

RRF_K = 60
"""The constant of the paper: the larger, the more slowly the weight of a rank decreases."""

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Fused(Generic[Key]):
    """An entry of a fused ranking: its key, its score, and its rank (1 for the best) in each source that has it."""

    key: Key
    score: float
    ranks: Mapping[str, int]


def reciprocal_rank_fusion(rankings: Mapping[str, Sequence[Key]], k: int = RRF_K) -> list[Fused[Key]]:
    """Return the keys of all rankings, ordered by the sum of ``1 / (k + rank)`` over the rankings, highest first.

    A ranking without the key adds nothing to the sum. Equal sums are ordered by the best single rank, then by first
    occurrence in the rankings as given; sums are exact, so rounding can't change the order.

    Args:
        rankings: for each source, its keys, best first.
        k: 0 or more; the larger, the less weight the first ranks have.

    Raises:
        ValueError: k is negative, or a key occurs twice in one ranking.
    """
    if k < 0:
        raise ValueError(f"k must be 0 or more, not {k}")
    ranks: dict[Key, dict[str, int]] = {}
    for source, keys in rankings.items():
        for rank, key in enumerate(keys, start=1):
            if ranks.setdefault(key, {}).setdefault(source, rank) != rank:
                raise ValueError(f"{key!r} occurs twice in the ranking {source!r}")
    sums = {key: sum((Fraction(1, k + rank) for rank in found.values()), Fraction()) for key, found in ranks.items()}
    # sorted() is stable: ties keep the order of first occurrence
    order = sorted(ranks, key=lambda key: (-sums[key], min(ranks[key].values())))
    return [Fused(key, float(sums[key]), ranks[key]) for key in order]
