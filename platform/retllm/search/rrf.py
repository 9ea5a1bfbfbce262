"""Reciprocal rank fusion: several rankings of the same things as one (Cormack, Clarke and Buettcher, SIGIR 2009).

Only ranks are read, so sources whose scores have nothing in common (cosines of two models, words of a caption) can be
put together without any scale between them.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Generic, TypeVar

RRF_K = 60
"""The constant of the paper: how slowly the worth of a rank falls off."""

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Fused(Generic[Key]):
    """A key of a fused ranking: its score, and its rank (1 for the best) in each source that has it."""

    key: Key
    score: float
    ranks: Mapping[str, int]


def reciprocal_rank_fusion(rankings: Mapping[str, Sequence[Key]], k: int = RRF_K) -> list[Fused[Key]]:
    """Every key of any ranking, the highest sum of ``1 / (k + rank)`` over the rankings first.

    A key that a ranking lacks gets nothing from it. Equal sums are ordered by the best single rank, then by the order
    in which the keys are met, going through the rankings as they are given; sums are compared exactly, so that
    rounding decides nothing.

    Args:
        rankings: for each source, its keys from the best on.
        k: 0 or more; the larger, the less the first ranks stand out.

    Raises:
        ValueError: k is negative, or a key comes twice in one ranking.
    """
    if k < 0:
        raise ValueError(f"k must be 0 or more, not {k}")
    ranks: dict[Key, dict[str, int]] = {}
    for source, keys in rankings.items():
        for rank, key in enumerate(keys, start=1):
            if ranks.setdefault(key, {}).setdefault(source, rank) != rank:
                raise ValueError(f"{key!r} comes twice in the ranking {source!r}")
    sums = {key: sum((Fraction(1, k + rank) for rank in found.values()), Fraction()) for key, found in ranks.items()}
    # sorted() keeps the order in which keys were met where the rest is equal
    order = sorted(ranks, key=lambda key: (-sums[key], min(ranks[key].values())))
    return [Fused(key, float(sums[key]), ranks[key]) for key in order]
