"""``make soak`` runs the same tests as ``make test`` with larger numbers: ``SOAK=1``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import combinations, product
from typing import Any, TypeVar

T = TypeVar("T")

SOAK = os.environ.get("SOAK", "") not in ("", "0")


def scaled(short: T, long: T) -> T:
    """Return ``long`` in a long run and ``short`` in any other."""
    return long if SOAK else short


def crossed(*values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Return values of several parameters combined: all in a long run, and in any other as few as have every pair.

    A fault that needs three parameters is rare; two values of different parameters always meet.
    """
    every = list(product(*(range(len(each)) for each in values)))

    def pairs(row: tuple[int, ...]) -> set[tuple[tuple[int, int], ...]]:
        return set(combinations(enumerate(row), 2))

    left = set().union(*map(pairs, every))
    chosen = set(every) if SOAK else set()
    while left and not SOAK:
        best = max(every, key=lambda row: len(pairs(row) & left))
        chosen.add(best)
        left -= pairs(best)
    return [tuple(each[n] for each, n in zip(values, row, strict=True)) for row in every if row in chosen]
