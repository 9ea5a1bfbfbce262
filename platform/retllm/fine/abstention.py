"""Abstention: decide from the distribution of scores whether even the best candidate is no good match.

A model's P(True) is not calibrated: one model gives 0.3 to a right pair, another gives 0.9 to a wrong one. But the
log-odds of many pairs, most of them wrong and some right, form two clusters, and the minimum between them separates
matches from non-matches for this model. No labels are needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MIN_SAMPLES = 50
"""With fewer values, two clusters cannot be distinguished from chance."""

#: share of the values that each initial fit assigns to the upper component; the best fit is used
_STARTS = (0.5, 0.25, 0.1, 0.03)
_MAX_STEPS = 300
#: the fit stops at a step that gains less mean log-likelihood than this
_TOLERANCE = 1e-8
#: minimum variance of a component, as a share of the variance of all values; prevents an infinite peak at equal values
_MIN_VARIANCE = 1e-4
_PARAMETERS = {1: 2, 2: 4}
#: components closer than this many deviations are one cluster with a tail
_MIN_GAP = 3.0

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Component:
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
    """The threshold between no match and match.

    Attributes:
        value: log-odds at which a pair belongs to either component with probability one half.
        low, high: the two components.
        samples: number of log-odds it was learned from.
    """

    value: float
    low: Component
    high: Component
    samples: int


def learn_threshold(log_odds: Sequence[float]) -> Threshold | None:
    """Fit two Gaussians to the log-odds of many pairs by expectation maximisation and find where they are equal.

    Both share one deviation: wrong pairs form a sharp peak with a long tail of hard ones, and a second, broader
    Gaussian would fit that tail instead of the matches.

    Pure function: the order of the values does not matter. Non-finite values are ignored.

    Returns:
        None if there are fewer than 50 values, if one Gaussian explains them as well (Bayesian information criterion,
        Schwarz 1978), or if the means are less than three deviations apart, as for one cluster and its tail.
    """
    values = np.sort(np.asarray([value for value in log_odds if math.isfinite(value)], dtype=np.float64))
    if values.size < _MIN_SAMPLES or values[0] == values[-1]:
        return None
    # standardised, so that the fit does not depend on the model's scale
    centre, scale = float(values.mean()), float(values.std())
    inner = (values - centre) / scale
    likelihood, low, high = max((_fit(inner, share) for share in _STARTS), key=lambda fit: fit[0])
    single = float(Component(1.0, 0.0, 1.0).log_density(inner).sum())
    if _criterion(likelihood, 2, values.size) >= _criterion(single, 1, values.size):
        return None
    border = _border(low, high)
    if border is None or high.mean - low.mean < _MIN_GAP * low.deviation:
        return None
    low, high = (
        Component(component.share, centre + scale * component.mean, scale * component.deviation)
        for component in (low, high)
    )
    return Threshold(centre + scale * border, low, high, int(values.size))


def no_match(best_log_odds: float, threshold: Threshold) -> bool:
    """Whether the best candidate's log-odds are below the threshold."""
    return best_log_odds < threshold.value


def _criterion(log_likelihood: float, components: int, samples: int) -> float:
    """Bayesian information criterion; smaller is better."""
    return _PARAMETERS[components] * math.log(samples) - 2 * log_likelihood


def _fit(values: Values, upper_share: float) -> tuple[float, Component, Component]:
    """Return log-likelihood, lower and upper component.

    The fit starts with ``upper_share`` of the values, the largest, in the upper component. ``values`` are sorted, with
    mean 0 and variance 1.
    """
    upper = np.zeros_like(values)
    upper[values.size - max(1, int(upper_share * values.size)) :] = 1.0
    reached = -math.inf
    for _ in range(_MAX_STEPS):
        low, high = _components(values, upper)
        logs = np.stack([low.log_density(values), high.log_density(values)])
        both = np.logaddexp(logs[0], logs[1])
        likelihood = float(both.sum())
        if likelihood - reached < _TOLERANCE * values.size:
            break
        reached = likelihood
        upper = np.exp(logs[1] - both)
    return (likelihood, low, high) if low.mean <= high.mean else (likelihood, high, low)


def _components(values: Values, upper: Values) -> tuple[Component, Component]:
    """Return both components, given each value's probability of belonging to the upper one; they share a deviation."""
    shares, means, variance = [], [], 0.0
    for weights in (1 - upper, upper):
        # lower bound for a component without values, so that every logarithm stays finite
        weight = max(float(weights.sum()), 1e-9)
        mean = float(weights @ values) / weight
        variance += float(weights @ (values - mean) ** 2) / values.size
        shares.append(weight / values.size)
        means.append(mean)
    deviation = math.sqrt(max(variance, _MIN_VARIANCE))
    return Component(shares[0], means[0], deviation), Component(shares[1], means[1], deviation)


def _border(low: Component, high: Component) -> float | None:
    """Return the value between the means at which both components are equally likely.

    None if one component is the more likely one at both means. The difference of two log densities is a parabola, so
    it changes sign once between two points of different sign, and bisection finds that point.
    """

    def upper_is_likelier(value: float) -> bool:
        at = np.asarray(value, dtype=np.float64)
        return bool(high.log_density(at) > low.log_density(at))

    below, above = low.mean, high.mean
    if upper_is_likelier(below) or not upper_is_likelier(above):
        return None
    for _ in range(60):
        middle = (below + above) / 2
        below, above = (below, middle) if upper_is_likelier(middle) else (middle, above)
    return (below + above) / 2
