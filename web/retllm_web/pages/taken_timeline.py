"""The bars of when the items of a list were taken: by month, or by years where they are from a longer time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from retllm.filters import Compare, Expression, Field
from retllm_web.actions.item_facets import Taken

_MAX_MONTHS = 36
# the steps in years, and the longest time for which each is used
_YEARS = {1: 60, 10: 400, 100: 10_000}
_TAKEN = Field("taken")
HEIGHT = 40
_LEAST = 1.5


@dataclass(frozen=True)
class Bar:
    """The items of a month, or of one year or several.

    Attributes:
        label: what stands below the bar.
        title: the whole name of the time.
        parts: the filter of that time.
        height: of ``HEIGHT``.
    """

    label: str
    title: str
    parts: tuple[Expression, ...]
    count: int
    height: float


@dataclass(frozen=True)
class Timeline:
    """The bars in the order of time; ``by_year_only`` items are in none of them, as no more than the year is known."""

    bars: Sequence[Bar]
    by_year_only: int = 0


def timeline(taken: Sequence[Taken]) -> Timeline:
    """Return the bars of these counts, which are in order."""
    months = Counter({12 * one.year + one.month - 1: one.count for one in taken if one.month})
    years: Counter[int] = Counter()
    for one in taken:
        years[one.year] += one.count
    if (
        months
        and max(months) - min(months) < _MAX_MONTHS
        and min(months) // 12 <= min(years) <= max(years) <= max(months) // 12
    ):
        found = [_month(number, months) for number in range(min(months), max(months) + 1)]
        return Timeline(found, years.total() - months.total())
    if not years:
        return Timeline([])
    step = next(step for step, longest in _YEARS.items() if max(years) - min(years) < longest)
    counts: Counter[int] = Counter()
    for year, count in years.items():
        counts[year - year % step] += count
    return Timeline([_years(year, step, counts) for year in range(min(counts), max(counts) + 1, step)])


def _month(number: int, counts: Counter[int]) -> Bar:
    begin = date(number // 12, number % 12 + 1, 1)
    is_named = begin.month == 1 or number == min(counts)
    label = f"{begin:%b} {begin.year}" if is_named else f"{begin:%b}"
    part = Compare(_TAKEN, "=", (f"{begin.year:04}-{begin.month:02}",))
    return _bar(label, f"{begin:%B} {begin.year}", (part,), number, counts)


def _years(year: int, step: int, counts: Counter[int]) -> Bar:
    if step == 1:
        return _bar(str(year), str(year), (Compare(_TAKEN, "=", (f"{year:04}",)),), year, counts)
    # no time has a year 0
    first, last = max(1, year), year + step - 1
    parts = (Compare(_TAKEN, ">=", (f"{first:04}",)), Compare(_TAKEN, "<=", (f"{last:04}",)))
    return _bar(f"{year}s" if step == 10 else str(year), f"{first} to {last}", parts, year, counts)


def _bar(label: str, title: str, parts: tuple[Expression, ...], key: int, counts: Counter[int]) -> Bar:
    count = counts[key]
    height = max(_LEAST, HEIGHT * count / max(counts.values())) if count else 0.0
    return Bar(label, title, parts, count, round(height, 1))
