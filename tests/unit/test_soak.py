"""Parameters that are combined for a short run meet each other in every pair, and for a long one in every way."""

from __future__ import annotations

from itertools import combinations, product

import pytest
from tests import soak

VALUES = ["abc", "defg", "hi", "jkl"]


def test_every_two_values_of_different_parameters_meet_in_a_short_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "SOAK", False)
    found = soak.crossed(*VALUES)
    met = {pair for row in found for pair in combinations(row, 2)}
    assert met == {pair for one, other in combinations(VALUES, 2) for pair in product(one, other)}
    assert len(found) == len(set(found)) < 20


def test_all_combinations_are_in_a_long_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "SOAK", True)
    assert soak.crossed(*VALUES) == list(product(*VALUES))
