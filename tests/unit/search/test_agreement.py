"""The agreement of two orders, compared with other ways to calculate it."""

from __future__ import annotations

import itertools
import random

import pytest

from retllm.search.agreement import agreement, kendall, rank_biased_overlap


def _tau_by_pairs(one: list[int], other: list[int]) -> float | None:
    shared = [key for key in one if key in other]
    signs = [1 if other.index(a) < other.index(b) else -1 for a, b in itertools.combinations(shared, 2)]
    return sum(signs) / len(signs) if signs else None


def test_tau_is_equal_to_a_calculation_over_all_pairs() -> None:
    chance = random.Random(5)
    for _ in range(200):
        one = chance.sample(range(12), chance.randrange(9))
        other = chance.sample(range(12), chance.randrange(9))
        assert kendall(one, other) == pytest.approx(_tau_by_pairs(one, other))


def test_tau_is_one_for_the_same_order_and_minus_one_for_its_reverse() -> None:
    assert kendall("abcd", "abcd") == 1
    assert kendall("abcd", "dcba") == -1
    assert kendall("ab", "xy") is None


def test_the_rank_biased_overlap_weights_the_first_places_most() -> None:
    same, low, high = (rank_biased_overlap("abcdef", other) for other in ("abcdef", "abcdfe", "bacdef"))
    assert same == pytest.approx(1)
    assert high is not None
    assert low is not None
    assert high < low < 1
    assert rank_biased_overlap("abc", "xyz") == 0
    assert rank_biased_overlap("", "abc") is None


def test_the_rank_biased_overlap_is_the_sum_of_its_definition() -> None:
    # agreement 0 at depth 1, 1/2 at depth 2, and 2/3 from depth 3 on
    p = 0.9
    expected = (1 - p) * (0 + p / 2 + p**2 * 2 / 3) + p**3 * 2 / 3
    assert rank_biased_overlap("abc", "bxa") == pytest.approx((1 - p) * (0 + p / 2 + p**2 * 2 / 3) + p**3 * 2 / 3)
    tail = sum((1 - p) * p**depth * 2 / 3 for depth in range(3, 2000))
    assert expected == pytest.approx((1 - p) * (p / 2 + p**2 * 2 / 3) + tail)


def test_overlaps_are_calculated_up_to_the_length_of_the_shorter_order() -> None:
    found = agreement("abcdefg", "gfaxyb")
    assert found.overlaps == {1: 0, 5: pytest.approx(1 / 5)}
    assert found.shared == 4
