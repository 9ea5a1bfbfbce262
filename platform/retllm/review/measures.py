"""How good one search is by the marks of its question; pure functions of ranks.

Items without a mark count as not relevant, so every measure is a lower bound until all of the pool is marked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from retllm.evaluation.metrics import ndcg, precision, recall_hits

AT = (5, 10)
"""The places at which precision and nDCG are told, beside the whole pool."""


class Verdict(StrEnum):
    """What the marks say of a search."""

    HIT = "hit"  # a relevant item is first
    FINE_MISS = "fine miss"  # a relevant item is in the pool, another item is first
    COARSE_MISS = "coarse miss"  # relevant items are known, and none is in the pool
    UNKNOWN = "unknown"  # no relevant item is known, or the order is not final


@dataclass(frozen=True)
class StageMeasures:
    """The measures of one order; shares from 0 to 1, by the number of places that were looked at."""

    recall_at_1: float
    precision: dict[int, float]
    ndcg: dict[int, float]


@dataclass(frozen=True)
class Measures:
    """A search by its marks; ``coarse`` and ``fine`` are None where the verdict is unknown.

    ``marked`` counts the candidates that have a mark, of ``pool``; ``relevant`` all relevant items that are known.
    """

    verdict: Verdict
    pool: int
    marked: int
    relevant: int
    coarse: StageMeasures | None
    fine: StageMeasures | None


@dataclass(frozen=True)
class RankPair:
    """Where a relevant candidate stands in a final order, and where the coarse stage had it, each from 1."""

    coarse: int
    final: int


def verdict_of(relevant: int, places: Sequence[RankPair]) -> Verdict:
    """What the marks say of a final order.

    Args:
        relevant: how many relevant items are known, found or not.
        places: those of them that are in the pool.
    """
    if not relevant:
        return Verdict.UNKNOWN
    if not places:
        return Verdict.COARSE_MISS
    return Verdict.HIT if any(place.final == 1 for place in places) else Verdict.FINE_MISS


def measure_order(ranks: Sequence[int], relevant: int, pool: int) -> StageMeasures:
    """The measures of an order.

    Args:
        ranks: where it has its relevant candidates.
        relevant: how many relevant items are known, found or not; at least 1.
        pool: how many candidates it has.
    """
    sizes = sorted({*AT, pool} - {0})
    return StageMeasures(
        recall_at_1=float(recall_hits([min(ranks, default=None)], 1)[0]),
        precision={n: precision(ranks, n) for n in sizes},
        ndcg={n: ndcg(ranks, relevant, n) for n in sizes},
    )


def measure(relevant: int, places: Sequence[RankPair], *, pool: int, marked: int) -> Measures:
    """All that the marks say of one search whose order is final; see :func:`verdict_of`."""
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
