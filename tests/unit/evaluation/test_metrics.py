"""Recall, bootstrap and the ROC area, compared with results by hand and by brute force."""

from __future__ import annotations

import random
import statistics

import numpy as np
import pytest

from retllm.evaluation import metrics
from retllm.evaluation.metrics import area_under_roc, bootstrap, interval, mean_of_parts, recall_hits


def test_recall_counts_the_queries_whose_right_item_is_among_the_first_n():
    ranks = [1, 2, 5, 6, None, 10, 11]
    assert recall_hits(ranks, 1).tolist() == [1, 0, 0, 0, 0, 0, 0]
    assert recall_hits(ranks, 5).tolist() == [1, 1, 1, 0, 0, 0, 0]
    assert recall_hits(ranks, 10).tolist() == [1, 1, 1, 1, 0, 1, 0]


def test_each_part_has_the_same_weight_independent_of_its_size():
    assert mean_of_parts([np.ones(1), np.zeros(99)]) == 0.5


def resampled_mean(parts: list[list[float]], rng: random.Random) -> float:
    return statistics.fmean(statistics.fmean(rng.choices(part, k=len(part))) for part in parts)


@pytest.mark.parametrize("parts", [[[1.0] * 30 + [0.0] * 20], [[1, 0, 0.5] * 8, [1, 1, 0, 1] * 10]])
def test_the_interval_is_close_to_that_of_a_brute_force_bootstrap(parts):
    rng = random.Random(3)
    brute = sorted(resampled_mean(parts, rng) for _ in range(6000))
    low, high = interval([np.array(part, dtype=float) for part in parts], seed=1, resamples=6000)
    assert low == pytest.approx(brute[150], abs=0.02)
    assert high == pytest.approx(brute[-150], abs=0.02)


def test_the_bootstrap_has_the_standard_deviation_of_a_mean_of_independent_samples():
    """For a share p of n queries: sqrt(p (1 - p) / n)."""
    means = bootstrap([np.array([1.0] * 70 + [0.0] * 30)], seed=2, resamples=20_000)
    assert means.mean() == pytest.approx(0.7, abs=0.002)
    assert means.std() == pytest.approx((0.7 * 0.3 / 100) ** 0.5, rel=0.03)


def test_the_interval_of_a_paired_difference_is_narrow():
    """The two results differ in only one query of a hundred."""
    first = np.array([1.0, 0.0] * 50)
    second = first.copy()
    second[1] = 1.0
    low, high = interval([second - first], seed=1)
    assert 0 <= low <= 0.01 <= high <= 0.04


def test_the_bootstrap_is_reproducible_by_seed_and_works_in_small_blocks(monkeypatch):
    hits = [np.array([1.0, 0.0, 0.0, 1.0, 1.0])]
    assert bootstrap(hits, seed=1).tolist() == bootstrap(hits, seed=1).tolist() != bootstrap(hits, seed=2).tolist()
    monkeypatch.setattr(metrics, "_CELLS", 7)
    assert bootstrap(hits, seed=1, resamples=10).shape == (10,)
    assert interval([np.ones(5)], seed=1) == (1.0, 1.0)


@pytest.mark.parametrize("seed", range(4))
def test_the_roc_area_is_the_share_of_pairs_in_the_right_order(seed):
    rng = random.Random(seed)
    positive = [rng.randint(0, 9) for _ in range(31)]
    negative = [rng.randint(-3, 6) for _ in range(17)]
    won = [(a > b) + (a == b) / 2 for a in positive for b in negative]
    assert area_under_roc(positive, negative) == pytest.approx(statistics.fmean(won))


def test_the_roc_area_without_positive_values_is_nan():
    assert np.isnan(area_under_roc([], [1.0]))
