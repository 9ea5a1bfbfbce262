"""The final order is (score descending, entropy ascending, coarse rank ascending) for every order of the input."""

from __future__ import annotations

import math
import random
from functools import cmp_to_key
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retllm.errors import InvalidInput
from retllm.fine import Scored, default_tie_decimals, final_order, tied
from retllm.fine.prompts import Mode

ROWS = st.lists(
    st.tuples(
        st.one_of(st.none(), st.sampled_from([0.1, 0.12341, 0.12344, 0.12346, 0.9, math.nan])),
        st.one_of(st.none(), st.sampled_from([0.0, 0.5, 1.5])),
    ),
    max_size=9,
).map(lambda rows: [Scored(f"item {at}", at, score, entropy) for at, (score, entropy) in enumerate(rows)])


def reference_order(rows: list[Scored[str]], decimals: int) -> list[str]:
    """Sort with a second implementation of the rule, a comparison of two candidates."""

    def compare(one: Scored[str], other: Scored[str]) -> int:
        has = [row.score is not None and not math.isnan(row.score) for row in (one, other)]
        if has != [True, True]:
            return 1 if has == [False, True] else -1 if has == [True, False] else one.coarse_rank - other.coarse_rank
        assert one.score is not None
        assert other.score is not None
        if round(one.score, decimals) != round(other.score, decimals):
            return -1 if one.score > other.score else 1
        entropies = [math.inf if row.entropy is None else row.entropy for row in (one, other)]
        if entropies[0] != entropies[1]:
            return -1 if entropies[0] < entropies[1] else 1
        return one.coarse_rank - other.coarse_rank

    return [row.key for row in sorted(rows, key=cmp_to_key(compare))]


@given(ROWS, st.sampled_from([0, 2, 4, 6]), st.randoms())
def test_the_final_order_equals_the_reference_order(
    rows: list[Scored[str]], decimals: int, random_: random.Random
) -> None:
    expected = reference_order(rows, decimals)
    shuffled = random_.sample(rows, len(rows))
    ranked = final_order(shuffled, decimals)
    assert [row.key for row in ranked] == expected
    assert [row.rank for row in ranked] == list(range(1, len(rows) + 1))


def test_equal_scores_are_ordered_by_entropy_then_by_coarse_rank() -> None:
    rows = [
        Scored("unsure", 0, 0.80001, 0.9),
        Scored("sure", 1, 0.80002, 0.2),
        Scored("best", 2, 0.9, 2.0),
        Scored("twin", 4, 0.5, 0.3),
        Scored("elder twin", 3, 0.5, 0.3),
        Scored("beyond the pool", 6),
        Scored("failed", 5, None),
    ]
    assert [(row.key, row.decided_by) for row in final_order(rows)] == [
        ("best", "score"),
        ("sure", "entropy"),
        ("unsure", "entropy"),
        ("elder twin", "coarse"),
        ("twin", "coarse"),
        ("failed", "coarse"),
        ("beyond the pool", "coarse"),
    ]


def test_scores_that_tie_at_4_decimals_can_differ_at_5() -> None:
    rows = [Scored("a", 0, 0.80001, 0.2), Scored("b", 1, 0.80002, 0.9)]
    assert [row.key for row in final_order(rows, 4)] == ["a", "b"]
    assert [row.key for row in final_order(rows, 5)] == ["b", "a"]


def test_the_order_of_no_candidates_is_empty() -> None:
    assert final_order([]) == []


def test_equal_coarse_ranks_and_negative_tie_decimals_are_refused() -> None:
    with pytest.raises(InvalidInput):
        final_order([Scored("a", 1), Scored("b", 1)])
    with pytest.raises(InvalidInput):
        final_order([], tie_decimals=-1)


POOLS = st.tuples(
    st.lists(
        st.one_of(
            st.just("failed"),
            st.tuples(st.sampled_from([0.1, 0.12341, 0.12344, 0.9]), st.sampled_from([None, 0.0, 0.5])),
        ),
        max_size=9,
    ),
    st.integers(0, 3),
)


@given(POOLS, st.sampled_from([2, 4]), st.randoms())
def test_failed_candidates_keep_their_coarse_rank_and_the_others_are_ordered_around_them(
    pool: tuple[list[Any], int], decimals: int, random_: random.Random
) -> None:
    """Candidates of the pool are scored or failed; others are beyond the pool."""
    scored_or_failed, beyond = pool
    failed = {at for at, row in enumerate(scored_or_failed) if row == "failed"}
    rows = [
        Scored(at, at + 1, failed=True) if row == "failed" else Scored(at, at + 1, *row)
        for at, row in enumerate(scored_or_failed)
    ]
    rows += [Scored(len(scored_or_failed) + at, len(scored_or_failed) + at + 1) for at in range(beyond)]
    ranked = final_order(random_.sample(rows, len(rows)), decimals)
    assert [row.rank for row in ranked] == list(range(1, len(rows) + 1))
    assert {row.key for row in ranked if row.key in failed} == failed
    for row in ranked:
        if row.key in failed:
            assert (row.rank, row.decided_by) == (row.key + 1, "coarse")
    others = [row for row in rows if row.key not in failed]
    assert [row.key for row in ranked if row.key not in failed] == [row.key for row in final_order(others, decimals)]
    assert [row.key for row in ranked][len(scored_or_failed) :] == list(range(len(scored_or_failed), len(rows)))


def test_the_score_of_a_failed_candidate_is_ignored() -> None:
    rows = [Scored("a", 1, 0.2, 0.1), Scored("b", 2, 0.9, 0.1, failed=True), Scored("c", 3, 0.9, 0.1)]
    assert [(row.key, row.decided_by) for row in final_order(rows)] == [("c", "score"), ("b", "coarse"), ("a", "score")]


@given(ROWS, st.sampled_from([0, 2, 4]), st.randoms())
def test_tied_candidates_are_those_whose_order_an_entropy_could_change(
    rows: list[Scored[str]], decimals: int, random_: random.Random
) -> None:
    """A candidate is tied if another one has the same rounded score and it has no entropy itself."""
    expected = [
        row.key
        for row in rows
        if row.score is not None
        and row.entropy is None
        and any(
            other is not row and other.score is not None and round(other.score, decimals) == round(row.score, decimals)
            for other in rows
        )
    ]
    assert tied(random_.sample(rows, len(rows)), decimals) == expected


def test_failed_and_unscored_candidates_do_not_tie() -> None:
    rows = [Scored("a", 1), Scored("b", 2), Scored("c", 3, 0.5, failed=True), Scored("d", 4, 0.5)]
    assert tied(rows, 2) == []
    assert tied([*rows, Scored("e", 5, 0.501)], 2) == ["d", "e"]
    assert tied([*rows, Scored("e", 5, 0.501, 0.3)], 2) == ["d"]
    assert tied([*rows, Scored("e", 5, 0.501)], 4) == []
    with pytest.raises(InvalidInput):
        tied(rows, 16)


def test_scores_tie_at_2_decimals_in_mode_verbalized_and_at_4_in_the_others() -> None:
    modes: tuple[Mode, ...] = ("true_false", "verbalized", "choice")
    assert [default_tie_decimals(mode) for mode in modes] == [4, 2, 4]
