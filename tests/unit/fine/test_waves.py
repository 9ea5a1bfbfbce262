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
def test_waves_stop_only_at_the_limit_or_when_the_best_candidate_is_clear(
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
def test_whether_the_best_is_clear_does_not_depend_on_the_order(
    adaptive: Adaptive, values: list[float | None], random_
) -> None:
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
def test_the_best_is_clear_if_its_log_odds_and_its_lead_are_large_enough(
    values: list[float | None], clear: bool
) -> None:
    assert Adaptive(clear_score=0.0, clear_gap=2.0).is_clear(values) is clear


def test_with_a_gap_of_0_two_equal_best_candidates_are_clear() -> None:
    assert Adaptive(clear_gap=0).is_clear([math.inf, math.inf])


def test_the_next_wave_has_one_step_unless_the_best_is_clear() -> None:
    adaptive = Adaptive(first=4, step=3, clear_score=0, clear_gap=2)
    assert next_wave(adaptive, [], 10) == 4
    assert next_wave(adaptive, [5.0, 0.0, 0.0, 0.0], 10) == 0
    assert next_wave(adaptive, [5.0, 4.0, 0.0, 0.0], 10) == 3
    assert next_wave(adaptive, [5.0, 4.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0], 10) == 1
    assert next_wave(adaptive, [5.0] * 10, 10) == 0


@given(SETTINGS)
def test_settings_round_trip_through_json(adaptive: Adaptive) -> None:
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
def test_an_invalid_setting_is_refused_with_the_name_of_its_field(data: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Adaptive.from_json(data)
    assert caught.value.detail["field"] == field
