"""The final order is (score descending, entropy ascending, coarse rank ascending), whatever order the rows come in."""

from __future__ import annotations

import math
import random
from functools import cmp_to_key

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retllm.errors import InvalidInput
from retllm.fine import Scored, final_order

ROWS = st.lists(
    st.tuples(
        st.one_of(st.none(), st.sampled_from([0.1, 0.12341, 0.12344, 0.12346, 0.9, math.nan])),
        st.one_of(st.none(), st.sampled_from([0.0, 0.5, 1.5])),
    ),
    max_size=9,
).map(lambda rows: [Scored(f"item {at}", at, score, entropy) for at, (score, entropy) in enumerate(rows)])


def by_the_book(rows: list[Scored[str]], decimals: int) -> list[str]:
    """The rule once more, as a comparison of two candidates."""

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
def test_the_order_is_the_rule(rows: list[Scored[str]], decimals: int, random_: random.Random) -> None:
    expected = by_the_book(rows, decimals)
    shuffled = random_.sample(rows, len(rows))
    ranked = final_order(shuffled, decimals)
    assert [row.key for row in ranked] == expected
    assert [row.rank for row in ranked] == list(range(1, len(rows) + 1))


def test_entropy_decides_between_equal_scores() -> None:
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


def test_more_decimals_tell_more_scores_apart() -> None:
    rows = [Scored("a", 0, 0.80001, 0.2), Scored("b", 1, 0.80002, 0.9)]
    assert [row.key for row in final_order(rows, 4)] == ["a", "b"]
    assert [row.key for row in final_order(rows, 5)] == ["b", "a"]


def test_nothing_gives_nothing() -> None:
    assert final_order([]) == []


def test_an_order_left_to_chance_is_refused() -> None:
    with pytest.raises(InvalidInput):
        final_order([Scored("a", 1), Scored("b", 1)])
    with pytest.raises(InvalidInput):
        final_order([], tie_decimals=-1)
