"""The data of a chart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Series:
    """A named series of values, one for each label of its chart; None or a non-finite number is a gap.

    In a bar chart, ``spans`` are the intervals of the values (one for each value, or empty), and ``points`` draws the
    series as points over the bars. ``colour`` is the name of one of Bootstrap's colours, for a series that means a
    state; without it the place of the series decides.
    """

    name: str
    values: Sequence[float | None]
    spans: Sequence[tuple[float, float] | None] = ()
    points: bool = False
    colour: str = ""

    def span(self, index: int) -> tuple[float, float] | None:
        """Return the interval of a value."""
        return self.spans[index] if self.spans else None


@dataclass(frozen=True)
class Rule:
    """A reference value, drawn as a horizontal line across the chart."""

    name: str
    value: float


@dataclass(frozen=True)
class Mark:
    """A marked position on the x axis, the index of a label."""

    name: str
    index: int


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        title: the caption.
        labels: the positions on the x axis, at equal distances.
        series: the values.
        x_name: title of the x axis.
        unit: of the values.
        decimals: of the values, in texts and in the table.
        low: start of the y axis, lower if a value is lower; None starts it at the minimum value.
        high: end of the y axis, higher if a value is higher; None ends it at the next round number.
        rules: reference values.
        marks: marked positions on the x axis.
        key: unique on the page; keeps the table open when the chart is replaced by a newer one.
        each_named: the labels are names, not points of a scale: all are shown, slanted if there is not enough space.
    """

    title: str
    labels: Sequence[str]
    series: Sequence[Series]
    x_name: str = ""
    unit: str = ""
    decimals: int = 0
    low: float | None = 0.0
    high: float | None = None
    rules: Sequence[Rule] = ()
    marks: Sequence[Mark] = ()
    key: str = ""
    each_named: bool = False


def number_of(value: float | None) -> float | None:
    """Return the value, or None for one that is not finite."""
    return float(value) if value is not None and math.isfinite(value) else None


def finite(series: Series) -> list[float | None]:
    """Return the values of a series; those that are not finite are None."""
    return [number_of(value) for value in series.values]
