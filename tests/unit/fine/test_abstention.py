"""The threshold separates two clusters of log-odds; with one cluster there is none."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retllm.fine import Threshold, learn_threshold, no_match


def _mixture(seed: int, low: tuple[float, float, int], high: tuple[float, float, int]) -> list[float]:
    """Draw values of two Gaussians, each (mean, deviation, count)."""
    draw = np.random.default_rng(seed)
    return [float(x) for mean, deviation, count in (low, high) for x in draw.normal(mean, deviation, count)]


def _log_density(x: float, share: float, mean: float, deviation: float) -> float:
    return math.log(share) - math.log(deviation) - 0.5 * math.log(2 * math.pi) - 0.5 * ((x - mean) / deviation) ** 2


def _true_threshold(low: tuple[float, float, int], high: tuple[float, float, int]) -> float:
    """Return the value where the densities of the two distributions are equal, by a search on a grid."""
    total = low[2] + high[2]
    places = np.linspace(low[0], high[0], 20_001)
    gaps = [
        abs(_log_density(x, low[2] / total, low[0], low[1]) - _log_density(x, high[2] / total, high[0], high[1]))
        for x in places
    ]
    return float(places[int(np.argmin(gaps))])


KNOWN = [
    ((-4.0, 1.0, 4000), (4.0, 1.0, 4000)),
    ((-6.0, 1.5, 4500), (1.0, 1.5, 500)),
    ((-1.0, 0.8, 3000), (3.0, 0.8, 1000)),
    ((-20.0, 2.0, 4900), (-5.0, 2.0, 100)),
]


@pytest.mark.parametrize(("low", "high"), KNOWN)
def test_the_threshold_is_where_the_known_densities_are_equal(
    low: tuple[float, float, int], high: tuple[float, float, int]
) -> None:
    threshold = learn_threshold(_mixture(1, low, high))
    assert threshold is not None
    distance = high[0] - low[0]
    assert threshold.value == pytest.approx(_true_threshold(low, high), abs=0.05 * distance)
    assert threshold.samples == low[2] + high[2]
    assert threshold.low.mean == pytest.approx(low[0], abs=0.05 * distance)
    assert threshold.high.mean == pytest.approx(high[0], abs=0.05 * distance)
    assert threshold.high.share == pytest.approx(high[2] / (low[2] + high[2]), abs=0.02)


def test_the_fit_is_more_likely_than_any_mixture_on_a_grid() -> None:
    """The fit has the maximum likelihood: a grid search around it finds none larger."""
    values = _mixture(2, (-3.0, 1.2, 300), (2.0, 1.2, 150))
    threshold = learn_threshold(values)
    assert threshold is not None
    at = np.asarray(values)

    def likelihood(share: float, means: tuple[float, float], deviation: float) -> float:
        densities = [
            part * np.exp(-0.5 * ((at - mean) / deviation) ** 2) / (deviation * math.sqrt(2 * math.pi))
            for part, mean in zip((1 - share, share), means, strict=True)
        ]
        return float(np.log(densities[0] + densities[1]).sum())

    low, high = threshold.low, threshold.high
    assert low.deviation == high.deviation
    found = likelihood(high.share, (low.mean, high.mean), low.deviation)
    deviations = [0.7, 0.9, 1.1, 1.3, 1.6, 2]
    grid = itertools.product(np.linspace(0.1, 0.6, 6), np.linspace(-4, 0, 9), np.linspace(0, 4, 9), deviations)
    best = max(likelihood(share, (m1, m2), deviation) for share, m1, m2, deviation in grid)
    assert found > best
    assert found - best < 10, "the grid's best is close, so the comparison is meaningful"


def test_both_components_are_equally_likely_at_the_threshold() -> None:
    threshold = learn_threshold(_mixture(3, (-4.0, 1.0, 900), (1.0, 2.0, 100)))
    assert threshold is not None
    low, high = (
        _log_density(threshold.value, component.share, component.mean, component.deviation)
        for component in (threshold.low, threshold.high)
    )
    assert low == pytest.approx(high, abs=1e-6)
    assert threshold.low.mean < threshold.value < threshold.high.mean


@pytest.mark.parametrize("seed", range(5))
def test_one_cluster_has_no_threshold(seed: int) -> None:
    draw = np.random.default_rng(seed)
    assert learn_threshold([float(x) for x in draw.normal(-3, 2, 1000)]) is None


def test_clusters_with_the_same_mean_have_no_threshold() -> None:
    assert learn_threshold(_mixture(4, (0.0, 0.5, 1000), (0.0, 5.0, 1000))) is None


def test_a_sharp_peak_with_a_tail_does_not_attract_the_threshold() -> None:
    """Most wrong pairs are clearly wrong, some nearly right; the threshold lies between the tail and the matches."""
    draw = np.random.default_rng(6)
    plain, hard = draw.normal(-9.7, 0.25, 8000), draw.uniform(-9, -3, 1500)
    threshold = learn_threshold([*plain, *hard, *draw.normal(5.5, 1.3, 1500)])
    assert threshold is not None
    assert -3.5 < threshold.value < 2.5


@pytest.mark.parametrize("values", [[], [1.0] * 49, [1.0] * 500, [math.nan] * 500, [-2.0, 2.0] * 24])
def test_too_few_or_all_equal_values_give_no_threshold(values: list[float]) -> None:
    assert learn_threshold(values) is None


def test_two_distinct_values_are_two_clusters() -> None:
    threshold = learn_threshold([-5.0] * 200 + [3.0] * 20)
    assert threshold is not None
    assert -5 < threshold.value < 3


def test_non_finite_values_are_ignored() -> None:
    values = _mixture(5, (-4.0, 1.0, 300), (4.0, 1.0, 300))
    assert learn_threshold([*values, math.inf, -math.inf, math.nan]) == learn_threshold(values)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(-50, 50), st.floats(0.1, 20), st.randoms())
def test_the_threshold_shifts_and_scales_with_the_values_and_ignores_their_order(
    seed: int, moved: float, stretched: float, random_
) -> None:
    values = _mixture(seed, (-4.0, 1.0, 150), (3.0, 1.0, 50))
    plain = learn_threshold(values)
    other = learn_threshold([moved + stretched * value for value in random_.sample(values, len(values))])
    assert plain is not None
    assert other is not None
    assert other.value == pytest.approx(moved + stretched * plain.value, abs=1e-3 * stretched)


def test_log_odds_below_the_threshold_are_no_match() -> None:
    threshold = learn_threshold(_mixture(6, (-9.0, 1.0, 300), (-3.0, 1.0, 300)))
    assert isinstance(threshold, Threshold)
    assert not no_match(-3.0, threshold)
    assert no_match(-9.0, threshold)
