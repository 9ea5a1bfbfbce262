"""Abstention: whether even the best candidate is no good match, told by the distribution of scores alone.

A model's P(True) is not calibrated: one says 0.3 of a right pair where another says 0.9 of a wrong one. But the
log-odds of many pairs, most of them wrong and some right, fall into two heaps, and the valley between them is this
model's own border between a match and none. It needs no label.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_FEWEST = 50
"""Values below which two heaps can't be told from chance."""

#: shares of the values that a start gives to the upper heap; the best of the fits is taken
_STARTS = (0.5, 0.25, 0.1, 0.03)
_MAX_STEPS = 300
#: a step that gains less mean log-likelihood than this ends the fit
_TOLERANCE = 1e-8
#: least variance of a heap, as a share of the variance of all values, so that equal values make no infinite peak
_MIN_VARIANCE = 1e-4
_PARAMETERS = {1: 2, 2: 4}
#: nearer heaps, in deviations, are one heap with a tail
_MIN_GAP = 3.0

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Heap:
    """One Gaussian component: its share of all values (0 to 1), its mean and standard deviation in log-odds."""

    share: float
    mean: float
    deviation: float

    def log_density(self, values: Values) -> Values:
        """ln(share * N(value)), shape as ``values``."""
        gap = (values - self.mean) / self.deviation
        result: Values = math.log(self.share) - math.log(self.deviation * math.sqrt(2 * math.pi)) - 0.5 * gap * gap
        return result


@dataclass(frozen=True, slots=True)
class Threshold:
    """The border between no match and match.

    Attributes:
        value: log-odds at which a pair belongs to either heap with probability one half.
        low, high: the two heaps.
        samples: how many log-odds it was learned from.
    """

    value: float
    low: Heap
    high: Heap
    samples: int


def learn_threshold(log_odds: Sequence[float]) -> Threshold | None:
    """Fit two Gaussians to the log-odds of many pairs by expectation maximisation and find where they are equal.

    Both have one deviation: the wrong pairs lie in a sharp peak with a long tail of hard ones, and a broad Gaussian of
    its own would take that tail for the matches.

    Pure: the same values give the same threshold, in whatever order they come. Values that are not finite are left out.

    Returns:
        None when there are fewer than 50 values, when one Gaussian explains them as well (Bayesian information
        criterion, Schwarz 1978), or when the two lie nearer than three deviations, as a heap and its own tail do.
    """
    values = np.sort(np.asarray([value for value in log_odds if math.isfinite(value)], dtype=np.float64))
    if values.size < _FEWEST or values[0] == values[-1]:
        return None
    # in units of the values' own spread, so that the fit does not depend on the model's scale
    centre, scale = float(values.mean()), float(values.std())
    inner = (values - centre) / scale
    likelihood, low, high = max((_fit(inner, share) for share in _STARTS), key=lambda fit: fit[0])
    one = float(Heap(1.0, 0.0, 1.0).log_density(inner).sum())
    if _criterion(likelihood, 2, values.size) >= _criterion(one, 1, values.size):
        return None
    border = _border(low, high)
    if border is None or high.mean - low.mean < _MIN_GAP * low.deviation:
        return None
    low, high = (Heap(heap.share, centre + scale * heap.mean, scale * heap.deviation) for heap in (low, high))
    return Threshold(centre + scale * border, low, high, int(values.size))


def no_match(best_log_odds: float, threshold: Threshold | None) -> bool:
    """Whether the best candidate's log-odds lie below the threshold, or below 0 (P = 1/2) where none was learned."""
    return best_log_odds < (0.0 if threshold is None else threshold.value)


def _criterion(log_likelihood: float, heaps: int, samples: int) -> float:
    """Bayesian information criterion: smaller is better."""
    return _PARAMETERS[heaps] * math.log(samples) - 2 * log_likelihood


def _fit(values: Values, upper_share: float) -> tuple[float, Heap, Heap]:
    """Log-likelihood and heaps, the lower first, from a start that gives the largest values to the upper heap.

    ``values`` are sorted, with mean 0 and variance 1.
    """
    belongs = np.zeros_like(values)
    belongs[values.size - max(1, int(upper_share * values.size)) :] = 1.0
    reached = -math.inf
    for _ in range(_MAX_STEPS):
        low, high = _heaps(values, belongs)
        logs = np.stack([low.log_density(values), high.log_density(values)])
        both = np.logaddexp(logs[0], logs[1])
        likelihood = float(both.sum())
        if likelihood - reached < _TOLERANCE * values.size:
            break
        reached = likelihood
        belongs = np.exp(logs[1] - both)
    return (likelihood, low, high) if low.mean <= high.mean else (likelihood, high, low)


def _heaps(values: Values, belongs: Values) -> tuple[Heap, Heap]:
    """The two heaps of values that belong to the upper one by so much; both have the same deviation."""
    shares, means, variance = [], [], 0.0
    for weights in (1 - belongs, belongs):
        # a heap that has lost all its values keeps a trace, so that every logarithm stays finite
        weight = max(float(weights.sum()), 1e-9)
        mean = float(weights @ values) / weight
        variance += float(weights @ (values - mean) ** 2) / values.size
        shares.append(weight / values.size)
        means.append(mean)
    deviation = math.sqrt(max(variance, _MIN_VARIANCE))
    return Heap(shares[0], means[0], deviation), Heap(shares[1], means[1], deviation)


def _border(low: Heap, high: Heap) -> float | None:
    """Where both heaps are equally likely, between their means; None if one covers the other's mean.

    The difference of two Gaussians' logarithms is a parabola, so it changes its sign at most once between two
    points of different sign, and halving finds the place.
    """

    def leans_high(value: float) -> bool:
        at = np.asarray(value, dtype=np.float64)
        return bool(high.log_density(at) > low.log_density(at))

    below, above = low.mean, high.mean
    if leans_high(below) or not leans_high(above):
        return None
    for _ in range(60):
        middle = (below + above) / 2
        below, above = (below, middle) if leans_high(middle) else (middle, above)
    return (below + above) / 2
