"""Recall@n, precision, nDCG, bootstrap intervals, and the area under the ROC curve."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Hits = NDArray[np.float64]
"""For each query 1 if the answer was right, 0 if it was wrong, 1/2 if a choice was tied."""

AT = (1, 5, 10)
"""The n of Recall@n."""
RESAMPLES = 1000
#: maximum number of cells of a resampling matrix in memory
_CELLS = 2**24


def recall_hits(ranks: Sequence[int | None], n: int) -> Hits:
    """Return for each query whether its right answer is among the first ``n``; a rank of None is a miss."""
    return np.array([rank is not None and rank <= n for rank in ranks], dtype=np.float64)


def precision(ranks: Sequence[int], n: int) -> float:
    """Return the share of right answers among the first ``n``; ``ranks`` are the ranks of the right answers, from 1."""
    return sum(rank <= n for rank in ranks) / n


def ndcg(ranks: Sequence[int], right: int, n: int) -> float:
    """Return the discounted gain of the first ``n`` ranks as a share of the ideal one (binary gain, log2(rank + 1)).

    Args:
        ranks: the ranks of the right answers that were found, from 1.
        right: number of all right answers, found or not; at least 1.
        n: number of ranks to include.
    """
    gained = sum(1 / math.log2(rank + 1) for rank in ranks if rank <= n)
    return gained / sum(1 / math.log2(place + 1) for place in range(1, min(right, n) + 1))


def mean_of_parts(parts: Sequence[Hits]) -> float:
    """Return the mean of the parts' means: all parts have equal weight."""
    return float(np.mean([part.mean() for part in parts]))


def bootstrap(parts: Sequence[Hits], seed: int, resamples: int = RESAMPLES) -> NDArray[np.float64]:
    """Return :func:`mean_of_parts` of resamples, which draw the queries of each part with replacement.

    Args:
        parts: hits of each part; for the difference of two results on the same queries, their differences.
        seed: of the random numbers.
        resamples: number of resamples.

    Returns:
        (resamples,) means.
    """
    rng = np.random.default_rng(seed)
    means = np.zeros(resamples)
    for part in parts:
        size = len(part)
        block = max(1, _CELLS // size)
        for at in range(0, resamples, block):
            count = min(block, resamples - at)
            drawn = rng.integers(0, size, size=(count, size))
            means[at : at + count] += part[drawn].mean(axis=1)
    return means / len(parts)


def interval(parts: Sequence[Hits], seed: int, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Return the 95 % interval of :func:`mean_of_parts`: the 2.5th and 97.5th percentile of the bootstrap."""
    low, high = np.percentile(bootstrap(parts, seed, resamples), [2.5, 97.5])
    return float(low), float(high)


def area_under_roc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Return the probability that a random positive value is above a random negative one; ties count half.

    nan if either is empty.
    """
    if not positive or not negative:
        return float("nan")
    below = np.sort(np.asarray(negative, dtype=np.float64))
    values = np.asarray(positive, dtype=np.float64)
    less, up_to = np.searchsorted(below, values, "left"), np.searchsorted(below, values, "right")
    return float((less + up_to).mean() / 2 / len(below))
