"""The measures of one search, against numbers computed by hand and for every order of a few candidates."""

from __future__ import annotations

import itertools
import math

import pytest

from retllm.evaluation.metrics import ndcg, precision
from retllm.review.measures import RankPair, Verdict, measure, measure_order, verdict_of


def test_measures_equal_numbers_computed_by_hand():
    """Relevant items at ranks 2 and 4 of 6, and one that was not found."""
    made = measure_order([4, 2], relevant=3, pool=6)
    gained = 1 / math.log2(3) + 1 / math.log2(5)
    best = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert made.recall_at_1 == 0
    assert made.precision == {5: 0.4, 6: pytest.approx(1 / 3), 10: 0.2}
    assert made.ndcg[5] == made.ndcg[6] == made.ndcg[10] == pytest.approx(gained / best)
    assert made.ndcg[5] == pytest.approx((0.6309297536 + 0.4306765581) / 2.1309297536)


def _by_gains(order: tuple[bool, ...], unfound: int, n: int) -> float:
    """nDCG by its definition: the gains, and the gains in the best order."""

    def dcg(gains: list[bool]) -> float:
        return sum(gain / math.log2(at + 2) for at, gain in enumerate(gains[:n]))

    return dcg(list(order)) / dcg(sorted([*order, *[True] * unfound], reverse=True))


def test_ndcg_and_precision_match_their_definitions_for_every_order():
    for order in itertools.product([False, True], repeat=6):
        ranks = [at for at, gain in enumerate(order, start=1) if gain]
        for unfound, n in itertools.product((0, 1, 4), (1, 3, 6, 9)):
            if not ranks and not unfound:
                continue
            assert ndcg(ranks, len(ranks) + unfound, n) == pytest.approx(_by_gains(order, unfound, n))
            assert precision(ranks, n) == pytest.approx(sum(order[:n]) / n)


VERDICTS = [
    (0, [], Verdict.UNKNOWN),
    (2, [], Verdict.COARSE_MISS),
    (1, [RankPair(5, 1)], Verdict.HIT),
    (1, [RankPair(1, 2)], Verdict.FINE_MISS),
    (2, [RankPair(1, 3), RankPair(2, 1)], Verdict.HIT),
]


@pytest.mark.parametrize(("relevant", "places", "verdict"), VERDICTS)
def test_the_verdict_names_the_stage_that_missed(relevant, places, verdict):
    assert verdict_of(relevant, places) is verdict


def test_the_two_stages_are_measured_separately():
    made = measure(1, [RankPair(coarse=3, final=1)], pool=5, marked=2)
    assert made.coarse is not None
    assert made.fine is not None
    assert (made.coarse.recall_at_1, made.fine.recall_at_1) == (0, 1)
    assert (made.coarse.ndcg[5], made.fine.ndcg[5]) == (pytest.approx(0.5), 1)
    assert (made.marked, made.pool, made.relevant) == (2, 5, 1)


def test_relevant_items_that_are_not_candidates_count_against_both_stages():
    made = measure(1, [], pool=3, marked=3)
    assert made.verdict is Verdict.COARSE_MISS
    assert made.fine is not None
    assert made.fine == made.coarse
    assert (made.fine.recall_at_1, made.fine.ndcg[10], made.fine.precision[3]) == (0, 0, 0)


def test_a_search_without_candidates_has_measures():
    made = measure(1, [], pool=0, marked=0)
    assert made.verdict is Verdict.COARSE_MISS
    assert made.fine is not None
    assert made.fine.ndcg == {5: 0, 10: 0}


def test_without_relevant_items_nothing_is_measured():
    made = measure(0, [], pool=3, marked=3)
    assert (made.verdict, made.coarse, made.fine) == (Verdict.UNKNOWN, None, None)
