"""The fine stage scores further waves until the best candidate is clear or the pool is exhausted."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retllm.errors import InvalidInput
from retllm.fine import Adaptive, next_wave

LOG_ODDS = st.one_of(st.none(), st.floats(-20, 20), st.sampled_from([math.inf, -math.inf, math.nan]))
SETTINGS = st.builds(
    Adaptive,
    first=st.integers(1, 6),
    step=st.integers(1, 6),
    clear_score=st.floats(-5, 5),
    clear_gap=st.floats(0, 5),
)


@given(SETTINGS, st.lists(LOG_ODDS, min_size=30, max_size=30), st.integers(0, 30))
def test_waves_end_within_the_pool_and_stop_only_when_it_is_used_up_or_the_best_is_clear(
    adaptive: Adaptive, pool: list[float | None], limit: int
) -> None:
    opened = 0
    waves = []
    while more := next_wave(adaptive, pool[:opened], limit):
        waves.append(more)
        opened += more
        assert opened <= limit
    assert opened == limit or adaptive.is_clear(pool[:opened])
    assert waves[:1] == [min(adaptive.first, limit)][: 1 if limit else 0]
    assert all(wave == adaptive.step for wave in waves[1:-1])


@given(SETTINGS, st.lists(LOG_ODDS, max_size=9), st.randoms())
def test_what_is_clear_does_not_depend_on_the_order(adaptive: Adaptive, values: list[float | None], random_) -> None:
    assert adaptive.is_clear(values) == adaptive.is_clear(random_.sample(values, len(values)))


@pytest.mark.parametrize(
    ("values", "clear"),
    [
        ([], False),
        ([None, None], False),
        ([3.0, 1.0, -2.0], True),
        ([3.0, 1.1], False),
        ([-0.1, -9.0], False),
        ([None, 0.0, -2.0], True),
        ([2.0, None], True),
        ([math.inf, 5.0], True),
        ([math.inf, math.inf], False),
        ([math.nan, 4.0, 0.0], True),
    ],
)
def test_the_best_is_clear_when_it_is_likely_and_leads(values: list[float | None], clear: bool) -> None:
    assert Adaptive(clear_score=0.0, clear_gap=2.0).is_clear(values) is clear


def test_without_a_gap_twins_are_clear_too() -> None:
    assert Adaptive(clear_gap=0).is_clear([math.inf, math.inf])


def test_a_clear_best_stops_and_an_unclear_one_goes_on_by_a_step() -> None:
    adaptive = Adaptive(first=4, step=3, clear_score=0, clear_gap=2)
    assert next_wave(adaptive, [], 10) == 4
    assert next_wave(adaptive, [5.0, 0.0, 0.0, 0.0], 10) == 0
    assert next_wave(adaptive, [5.0, 4.0, 0.0, 0.0], 10) == 3
    assert next_wave(adaptive, [5.0, 4.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0], 10) == 1
    assert next_wave(adaptive, [5.0] * 10, 10) == 0


@given(SETTINGS)
def test_settings_come_back_from_json_as_they_were(adaptive: Adaptive) -> None:
    assert Adaptive.from_json(adaptive.as_json()) == adaptive


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"first": 0}, "first"),
        ({"first": 2.5}, "first"),
        ({"step": True}, "step"),
        ({"clear_score": math.inf}, "clear_score"),
        ({"clear_score": "high"}, "clear_score"),
        ({"clear_gap": -0.1}, "clear_gap"),
        ({"clear_gap": math.nan}, "clear_gap"),
        ({"most": 3}, "most"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(data: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Adaptive.from_json(data)
    assert caught.value.detail["field"] == field
