"""Reciprocal rank fusion follows its formula, and its order is deterministic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retllm.search.rrf import reciprocal_rank_fusion

RANKING = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=8)
RANKINGS = st.dictionaries(st.sampled_from(["clip", "siglip", "captions"]), RANKING, max_size=3)


def brute_force(rankings: Mapping[str, Sequence[str]], k: int) -> list[tuple[str, Fraction]]:
    """Apply the formula and select the best remaining key until none is left."""
    met = list(dict.fromkeys(key for keys in rankings.values() for key in keys))

    def worth(key: str) -> tuple[Fraction, int, int]:
        ranks = [list(keys).index(key) + 1 for keys in rankings.values() if key in keys]
        total = Fraction(0)
        for rank in ranks:
            total += Fraction(1) / (k + rank)
        return -total, min(ranks), met.index(key)

    order = []
    left = list(met)
    while left:
        best = min(left, key=worth)
        left.remove(best)
        order.append((best, -worth(best)[0]))
    return order


@given(RANKINGS, st.integers(0, 100))
def test_scores_and_order_follow_the_formula(rankings: dict[str, list[str]], k: int) -> None:
    fused = reciprocal_rank_fusion(rankings, k)
    expected = brute_force(rankings, k)
    assert [entry.key for entry in fused] == [key for key, _ in expected]
    assert [entry.score for entry in fused] == pytest.approx([float(total) for _, total in expected])


@given(RANKINGS)
def test_every_entry_has_its_rank_in_each_source(rankings: dict[str, list[str]]) -> None:
    for entry in reciprocal_rank_fusion(rankings):
        assert entry.ranks == {
            source: keys.index(entry.key) + 1 for source, keys in rankings.items() if entry.key in keys
        }


@given(RANKING)
def test_a_single_source_keeps_its_order(keys: list[str]) -> None:
    assert [entry.key for entry in reciprocal_rank_fusion({"clip": keys})] == keys


@given(RANKINGS, st.permutations(["clip", "siglip", "captions"]))
def test_the_order_of_the_sources_changes_no_score(rankings: dict[str, list[str]], order: list[str]) -> None:
    turned = {source: rankings[source] for source in order if source in rankings}
    scores = {entry.key: entry.score for entry in reciprocal_rank_fusion(rankings)}
    assert {entry.key: entry.score for entry in reciprocal_rank_fusion(turned)} == scores


def test_a_low_rank_in_two_sources_beats_the_first_rank_in_one() -> None:
    """1/62 + 1/63 = 0.0320 for b, 1/61 = 0.0164 for a and for c."""
    fused = reciprocal_rank_fusion({"clip": ["a", "b"], "captions": ["c", "d", "b"]})
    assert [entry.key for entry in fused] == ["b", "a", "c", "d"]
    assert fused[0].score == pytest.approx(1 / 62 + 1 / 63)
    assert fused[1].score == fused[2].score == pytest.approx(1 / 61)


def test_exactly_equal_sums_tie_and_the_better_single_rank_goes_first() -> None:
    """1/63 + 1/126 = 1/42 = 1/84 + 1/84, although the floating-point sums can differ."""
    first, second = [f"x{n}" for n in range(80)], [f"y{n}" for n in range(80)]
    first[2], second[65] = "near", "near"
    first[23], second[23] = "even", "even"
    # in this order of the sources, "even" occurs first
    fused = {entry.key: (place, entry) for place, entry in enumerate(reciprocal_rank_fusion({"b": second, "a": first}))}
    assert fused["near"][1].score == fused["even"][1].score == pytest.approx(1 / 42)
    assert fused["even"][0] == fused["near"][0] + 1


def test_a_duplicate_key_in_a_ranking_and_a_negative_constant_are_refused() -> None:
    with pytest.raises(ValueError, match="occurs twice"):
        reciprocal_rank_fusion({"clip": ["a", "b", "a"]})
    with pytest.raises(ValueError, match="0 or more"):
        reciprocal_rank_fusion({"clip": ["a"]}, -1)
