"""Measures of how far two rankings of items agree; pure functions of two lists of distinct keys, best first."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)

PERSISTENCE = 0.9
"""Persistence of ``rank_biased_overlap``: the first ten places carry about 86 % of the weight."""


@dataclass(frozen=True)
class Agreement:
    """How far two rankings agree; None where there are too few items for a measure."""

    shared: int
    overlaps: dict[int, float]
    """share of items that both have among their first k, by k"""
    tau: float | None
    biased_overlap: float | None


def agreement(first: Sequence[Key], second: Sequence[Key], depths: Sequence[int] = (1, 5, 10)) -> Agreement:
    """Return all measures, with the overlaps at those ``depths`` that both rankings reach."""
    reached = [depth for depth in depths if depth <= min(len(first), len(second))]
    return Agreement(
        shared=len(set(first) & set(second)),
        overlaps={depth: len(set(first[:depth]) & set(second[:depth])) / depth for depth in reached},
        tau=kendall(first, second),
        biased_overlap=rank_biased_overlap(first, second),
    )


def kendall(first: Sequence[Key], second: Sequence[Key]) -> float | None:
    """Return Kendall's tau over the shared items: 1 for the same order, -1 for the reverse; None for fewer than two."""
    places = {key: place for place, key in enumerate(second)}
    order = [places[key] for key in first if key in places]
    pairs = len(order) * (len(order) - 1) // 2
    if not pairs:
        return None
    before: list[int] = []
    swapped = 0
    for place in order:
        swapped += len(before) - bisect_left(before, place)
        insort(before, place)
    return 1 - 2 * swapped / pairs


def rank_biased_overlap(first: Sequence[Key], second: Sequence[Key], persistence: float = PERSISTENCE) -> float | None:
    """Return the extrapolated rank-biased overlap (Webber, Moffat and Zobel 2010), 0 to 1, over the shorter length.

    Lower places have less weight. Return None if a ranking is empty.
    """
    depth = min(len(first), len(second))
    if not depth:
        return None
    seen_first: set[Key] = set()
    seen_second: set[Key] = set()
    total = 0.0
    agreed = 0.0
    for place in range(depth):
        seen_first.add(first[place])
        seen_second.add(second[place])
        agreed = len(seen_first & seen_second) / (place + 1)
        total += agreed * persistence**place
    return (1 - persistence) * total + agreed * persistence**depth
