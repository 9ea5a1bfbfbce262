"""Fusion adds the weighted similarity, standardised over the pool, to the log-odds."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from retllm.errors import InvalidInput
from retllm.fine import fused

POOL = st.lists(st.tuples(st.one_of(st.none(), st.floats(-30, 30)), st.floats(-1, 1)), min_size=1, max_size=12)
WEIGHT = st.floats(0.01, 10)


def _spread(similarities: list[float]) -> bool:
    return statistics.pstdev(similarities) > 1e-3


@given(POOL)
def test_a_weight_of_zero_leaves_the_log_odds_unchanged(pool: list[tuple[float | None, float]]) -> None:
    log_odds, similarities = [pair[0] for pair in pool], [pair[1] for pair in pool]
    assert fused(log_odds, similarities, 0) == log_odds


@given(POOL, WEIGHT)
def test_the_weighted_standardised_similarity_is_added(pool: list[tuple[float | None, float]], weight: float) -> None:
    log_odds, similarities = [pair[0] for pair in pool], [pair[1] for pair in pool]
    assume(_spread(similarities))
    mean, deviation = statistics.fmean(similarities), statistics.pstdev(similarities)
    for value, similarity, result in zip(log_odds, similarities, fused(log_odds, similarities, weight), strict=True):
        if value is None:
            assert result is None
        else:
            assert result == pytest.approx(value + weight * (similarity - mean) / deviation, abs=1e-6)


@given(POOL, WEIGHT, st.floats(-0.5, 0.5), st.floats(0.1, 3))
def test_the_result_does_not_depend_on_the_offset_and_scale_of_the_similarities(
    pool: list[tuple[float | None, float]], weight: float, moved: float, stretched: float
) -> None:
    log_odds, similarities = [0.0 if pair[0] is None else pair[0] for pair in pool], [pair[1] for pair in pool]
    assume(_spread(similarities))
    other = [moved + stretched * similarity for similarity in similarities]
    assert fused(log_odds, other, weight) == pytest.approx(fused(log_odds, similarities, weight), abs=1e-6)


def test_equal_similarities_leave_the_log_odds_unchanged() -> None:
    alike = [0.3, 0.3 + 1e-9, 0.3]
    assert fused([1.0, -1.0, None], alike, 5.0) == [1.0, -1.0, None]
    assert fused([2.0], [0.9], 5.0) == [2.0]
    assert fused([], [], 5.0) == []


def test_a_candidate_without_a_score_counts_in_the_standardisation() -> None:
    with_it = fused([0.0, 0.0, None], [0.5, 0.4, 0.1], 1.0)
    without = fused([0.0, 0.0], [0.5, 0.4], 1.0)
    assert with_it[:2] != pytest.approx(without)


def test_infinite_log_odds_stay_infinite() -> None:
    assert fused([math.inf, -math.inf], [0.1, 0.9], 1.0) == [math.inf, -math.inf]


@pytest.mark.parametrize("weight", [-0.1, math.inf, math.nan])
def test_a_negative_or_non_finite_weight_is_refused(weight: float) -> None:
    with pytest.raises(InvalidInput, match="weight"):
        fused([1.0], [0.5], weight)


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(InvalidInput, match="2 log-odds but 1"):
        fused([1.0, 2.0], [0.5], 1.0)


@given(POOL, WEIGHT, st.integers(0, 12))
def test_an_unknown_similarity_adds_nothing_and_does_not_change_other_results(
    pool: list[tuple[float | None, float]], weight: float, place: int
) -> None:
    log_odds, similarities = [pair[0] for pair in pool], [pair[1] for pair in pool]
    place = min(place, len(pool))
    without = fused(log_odds, similarities, weight)
    with_unknown = fused(
        [*log_odds[:place], 1.5, *log_odds[place:]], [*similarities[:place], None, *similarities[place:]], weight
    )
    assert with_unknown[place] == 1.5
    assert with_unknown[:place] + with_unknown[place + 1 :] == without


def test_without_any_known_similarity_the_log_odds_are_unchanged() -> None:
    assert fused([1.0, None, -2.0], [None, None, None], 3.0) == [1.0, None, -2.0]
