"""Recall at n, precision, nDCG, intervals by the bootstrap, and the area under the ROC curve."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Hits = NDArray[np.float64]
"""For each query 1 where the answer was right, 0 where it was not, 1/2 where a choice was left open."""

AT = (1, 5, 10)
"""The n of Recall@n."""
RESAMPLES = 1000
#: cells of a resampling matrix that are held at a time
_CELLS = 2**24


def recall_hits(ranks: Sequence[int | None], n: int) -> Hits:
    """Whether each query's right answer is among the first ``n``; None is a rank beyond all that were looked at."""
    return np.array([rank is not None and rank <= n for rank in ranks], dtype=np.float64)


def precision(ranks: Sequence[int], n: int) -> float:
    """The share of the first ``n`` places that hold one of the right answers, whose ranks (from 1) are given."""
    return sum(rank <= n for rank in ranks) / n


def ndcg(ranks: Sequence[int], right: int, n: int) -> float:
    """The discounted gain of the first ``n`` places as a share of the best possible (binary gain, log2(rank + 1)).

    Args:
        ranks: where the right answers are that were found at all, each from 1.
        right: how many right answers there are, found or not; at least 1.
        n: places that are looked at.
    """
    gained = sum(1 / math.log2(rank + 1) for rank in ranks if rank <= n)
    return gained / sum(1 / math.log2(place + 1) for place in range(1, min(right, n) + 1))


def mean_of_parts(parts: Sequence[Hits]) -> float:
    """The mean of the parts' means: each part counts the same, whatever its size."""
    return float(np.mean([part.mean() for part in parts]))


def bootstrap(parts: Sequence[Hits], seed: int, resamples: int = RESAMPLES) -> NDArray[np.float64]:
    """What :func:`mean_of_parts` gives when the queries of each part are drawn again with replacement.

    Args:
        parts: hits of each part; for the difference of two results on the same queries, their differences.
        seed: of the drawing.
        resamples: how often.

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
    """The 95 % interval of :func:`mean_of_parts`: the 2.5th and 97.5th percentile of the bootstrap."""
    low, high = np.percentile(bootstrap(parts, seed, resamples), [2.5, 97.5])
    return float(low), float(high)


def area_under_roc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """The probability that a random positive value is above a random negative one, ties counting half.

    nan where either is empty.
    """
    if not positive or not negative:
        return float("nan")
    below = np.sort(np.asarray(negative, dtype=np.float64))
    values = np.asarray(positive, dtype=np.float64)
    less, up_to = np.searchsorted(below, values, "left"), np.searchsorted(below, values, "right")
    return float((less + up_to).mean() / 2 / len(below))
