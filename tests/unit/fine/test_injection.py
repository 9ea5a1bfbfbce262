"""The settings of re-injection are validated, and select the same share of the layers at every depth."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retllm.errors import InvalidInput
from retllm.fine import Injection

SETTINGS = st.builds(
    Injection,
    alpha=st.floats(0, 1),
    trigger=st.sampled_from(["entropy", "off"]),
    tau=st.floats(0, 1),
    start=st.one_of(st.none(), st.integers(-1, 5)),
    end=st.one_of(st.none(), st.integers(6, 20)),
    fixed_layer=st.one_of(st.none(), st.integers(0, 30)),
    scope=st.sampled_from(["all", "suffix"]),
    scaling=st.booleans(),
    key_weight=st.sampled_from(["up", "gate"]),
)


@given(SETTINGS)
def test_settings_round_trip_through_json(settings: Injection) -> None:
    assert Injection.from_json(json.loads(json.dumps(settings.as_json()))) == settings


def test_the_default_settings() -> None:
    assert Injection().as_json() == {
        "alpha": 0.3,
        "trigger": "entropy",
        "tau": 0.75,
        "start": None,
        "end": None,
        "fixed_layer": None,
        "scope": "suffix",
        "scaling": True,
        "key_weight": "up",
    }
    assert Injection.from_json({}) == Injection()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("alpha", -0.1),
        ("alpha", 1.1),
        ("alpha", math.nan),
        ("alpha", "0.3"),
        ("alpha", True),
        ("tau", 2),
        ("trigger", "always"),
        ("trigger", None),
        ("scope", "prefix"),
        ("key_weight", "down"),
        ("scaling", 1),
        ("start", -2),
        ("start", 1.5),
        ("end", -1),
        ("end", True),
        ("fixed_layer", -1),
        ("colour", 3),
    ],
)
def test_an_invalid_value_is_refused_with_the_name_of_its_field(field: str, value: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        Injection.from_json({field: value})
    assert caught.value.detail["field"] == field


def test_contradictory_settings_are_refused() -> None:
    with pytest.raises(InvalidInput, match="start"):
        Injection(start=6, end=6)
    with pytest.raises(InvalidInput, match="fixed_layer"):
        Injection(trigger="fixed")


@pytest.mark.parametrize(
    ("layers", "watched"),
    [
        (28, range(6, 16)),
        (36, range(7, 20)),
        (6, range(2, 3)),
        (32, range(6, 18)),
        (2, range(1, 1)),
        (56, range(11, 32)),
    ],
)
def test_the_default_range_scales_with_depth(layers: int, watched: range) -> None:
    """start = floor(5/28 L), end = floor(16/28 L); only layers strictly between them are read."""
    plan = Injection().plan(layers)
    assert list(plan.watched) == list(watched)
    assert plan.injectable == tuple(layer + 1 for layer in watched)


def test_an_explicit_range_excludes_both_ends() -> None:
    assert list(Injection(start=2, end=5).plan(10).watched) == [3, 4]
    assert list(Injection(start=-1, end=10).plan(10).watched) == list(range(9)), "there is no layer after the last one"


def test_the_fixed_trigger_injects_into_its_layer_only() -> None:
    plan = Injection(trigger="fixed", fixed_layer=4).plan(5)
    assert plan.injectable == (4,)
    assert not plan.watched


@pytest.mark.parametrize("settings", [Injection(trigger="off"), Injection(alpha=0)])
def test_settings_without_effect_inject_into_no_layer(settings: Injection) -> None:
    assert not settings.active
    assert settings.plan(28).injectable == ()


@pytest.mark.parametrize("settings", [Injection(trigger="fixed", fixed_layer=28), Injection(end=29)])
def test_a_layer_beyond_the_depth_of_the_model_is_refused(settings: Injection) -> None:
    with pytest.raises(InvalidInput):
        settings.plan(28)
