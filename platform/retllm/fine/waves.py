"""Adaptive k: the fine stage scores the pool in waves and stops when the best candidate is clear."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from retllm.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Adaptive:
    """When to score more candidates of the pool, in coarse order.

    Attributes:
        first: number of candidates in the first wave.
        step: number of candidates in each later wave.
        clear_score: minimum log-odds of a clear best candidate; 0 is a probability of one half.
        clear_gap: minimum lead over the second best in log-odds; 2 are odds of about 7 to 1 against odds of 1 to 1.

    Raises:
        InvalidInput: a value is out of range; ``detail["field"]`` names it.
    """

    first: int = 4
    step: int = 4
    clear_score: float = 0.0
    clear_gap: float = 2.0

    def __post_init__(self) -> None:
        self._check_count("first")
        self._check_count("step")
        self._check_number("clear_score", lowest=-math.inf)
        self._check_number("clear_gap", lowest=0)

    def _check_count(self, name: str) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InvalidInput(f"{name} must be a whole number, 1 or more, not {value!r}.", field=name)

    def _check_number(self, name: str, lowest: float) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < lowest:
            least = "" if math.isinf(lowest) else f", {lowest:g} or more"
            raise InvalidInput(f"{name} must be a finite number{least}, not {value!r}.", field=name)

    def as_json(self) -> dict[str, Any]:
        """Return all settings as JSON values, to be stored with the search."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Adaptive:
        """Return the settings from the output of :meth:`as_json`; omitted fields have their defaults.

        Raises:
            InvalidInput: a field does not exist, or a value is out of range.
        """
        known = {field.name for field in fields(cls)}
        for name in data:
            if name not in known:
                raise InvalidInput(f"Adaptive k has no setting called {name!r}.", field=str(name))
        return cls(**data)

    def is_clear(self, log_odds: Sequence[float | None]) -> bool:
        """Return whether the best score reaches ``clear_score`` and its lead ``clear_gap``; None counts as no score."""
        known = sorted((value for value in log_odds if value is not None and not math.isnan(value)), reverse=True)
        if not known or known[0] < self.clear_score:
            return False
        if len(known) == 1:
            return True
        # the difference of two equal infinite log-odds is NaN
        gap = 0.0 if known[0] == known[1] else known[0] - known[1]
        return gap >= self.clear_gap


def next_wave(adaptive: Adaptive, log_odds_so_far: Sequence[float | None], limit: int) -> int:
    """Return how many more candidates to score, in coarse order; 0 to stop.

    Args:
        adaptive: the settings.
        log_odds_so_far: of the candidates of earlier waves, in coarse order; None for one that could not be scored.
        limit: size of the pool, the maximum number of candidates to score.
    """
    scored = len(log_odds_so_far)
    left = max(0, limit - scored)
    if not scored:
        return min(adaptive.first, left)
    return 0 if adaptive.is_clear(log_odds_so_far) else min(adaptive.step, left)
