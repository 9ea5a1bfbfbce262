"""How far two orders of items agree: pure functions of two lists of different keys, best first."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)

PERSISTENCE = 0.9
"""Of ``rank_biased_overlap``: the first ten places carry about 86 % of its weight."""


@dataclass(frozen=True)
class Agreement:
    """Two orders against each other; None where there is too little to measure it."""

    shared: int
    overlaps: dict[int, float]
    """share of the first k places that both hold, by k"""
    tau: float | None
    biased_overlap: float | None


def agreement(one: Sequence[Key], other: Sequence[Key], depths: Sequence[int] = (1, 5, 10)) -> Agreement:
    """All measures; overlaps at those of the depths that both orders reach."""
    reached = [depth for depth in depths if depth <= min(len(one), len(other))]
    return Agreement(
        shared=len(set(one) & set(other)),
        overlaps={depth: len(set(one[:depth]) & set(other[:depth])) / depth for depth in reached},
        tau=kendall(one, other),
        biased_overlap=rank_biased_overlap(one, other),
    )


def kendall(one: Sequence[Key], other: Sequence[Key]) -> float | None:
    """Kendall's tau over the items that both hold: 1 for one order, -1 for its reverse; None for fewer than two."""
    places = {key: place for place, key in enumerate(other)}
    order = [places[key] for key in one if key in places]
    pairs = len(order) * (len(order) - 1) // 2
    if not pairs:
        return None
    before: list[int] = []
    swapped = 0
    for place in order:
        swapped += len(before) - bisect_left(before, place)
        insort(before, place)
    return 1 - 2 * swapped / pairs


def rank_biased_overlap(one: Sequence[Key], other: Sequence[Key], persistence: float = PERSISTENCE) -> float | None:
    """Rank-biased overlap (Webber, Moffat and Zobel 2010, extrapolated), 0 to 1, down to the end of the shorter order.

    Places count less the further down they are. None if an order is empty.
    """
    depth = min(len(one), len(other))
    if not depth:
        return None
    seen_one: set[Key] = set()
    seen_other: set[Key] = set()
    total = 0.0
    agreed = 0.0
    for place in range(depth):
        seen_one.add(one[place])
        seen_other.add(other[place])
        agreed = len(seen_one & seen_other) / (place + 1)
        total += agreed * persistence**place
    return (1 - persistence) * total + agreed * persistence**depth
