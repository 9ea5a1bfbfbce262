"""Measures of one search by the marks of its query; pure functions of ranks.

Items without a mark count as not relevant, so every measure is a lower bound until all candidates are marked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from retllm.evaluation.metrics import ndcg, precision, recall_hits

AT = (5, 10)
"""Ranks at which precision and nDCG are computed, besides the size of the pool."""


class Verdict(StrEnum):
    """The result of a search by the marks of its query."""

    HIT = "hit"  # a relevant item is first
    FINE_MISS = "fine miss"  # a relevant item is in the pool, another item is first
    COARSE_MISS = "coarse miss"  # relevant items are known, and none is in the pool
    UNKNOWN = "unknown"  # no relevant item is known, or the order is not final


@dataclass(frozen=True)
class StageMeasures:
    """The measures of one order, from 0 to 1; precision and nDCG by rank n."""

    recall_at_1: float
    precision: dict[int, float]
    ndcg: dict[int, float]


@dataclass(frozen=True)
class Measures:
    """The measures of a search; ``coarse`` and ``fine`` are None if the verdict is unknown.

    ``pool`` counts the candidates, ``marked`` those with a mark, ``relevant`` all items marked as relevant.
    """

    verdict: Verdict
    pool: int
    marked: int
    relevant: int
    coarse: StageMeasures | None
    fine: StageMeasures | None


@dataclass(frozen=True)
class RankPair:
    """The coarse rank and the final rank of a relevant candidate, each from 1."""

    coarse: int
    final: int


def verdict_of(relevant: int, places: Sequence[RankPair]) -> Verdict:
    """Return the verdict on a final order.

    Args:
        relevant: number of items marked as relevant, found or not.
        places: ranks of those that are candidates.
    """
    if not relevant:
        return Verdict.UNKNOWN
    if not places:
        return Verdict.COARSE_MISS
    return Verdict.HIT if any(place.final == 1 for place in places) else Verdict.FINE_MISS


def measure_order(ranks: Sequence[int], relevant: int, pool: int) -> StageMeasures:
    """Return the measures of an order.

    Args:
        ranks: ranks of its relevant candidates.
        relevant: number of items marked as relevant, found or not; at least 1.
        pool: number of candidates.
    """
    sizes = sorted({*AT, pool} - {0})
    return StageMeasures(
        recall_at_1=float(recall_hits([min(ranks, default=None)], 1)[0]),
        precision={n: precision(ranks, n) for n in sizes},
        ndcg={n: ndcg(ranks, relevant, n) for n in sizes},
    )


def measure(relevant: int, places: Sequence[RankPair], *, pool: int, marked: int) -> Measures:
    """Return all measures of a search with a final order; see :func:`verdict_of`."""
    verdict = verdict_of(relevant, places)
    if verdict is Verdict.UNKNOWN:
        return Measures(verdict, pool, marked, relevant, None, None)
    return Measures(
        verdict=verdict,
        pool=pool,
        marked=marked,
        relevant=relevant,
        coarse=measure_order([place.coarse for place in places], relevant, pool),
        fine=measure_order([place.final for place in places], relevant, pool),
    )
