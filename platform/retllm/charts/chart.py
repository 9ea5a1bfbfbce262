"""What a chart is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Series:
    """A named row of values, one for each label of its chart; None (or no finite number) is a gap.

    In a chart of bars, ``spans`` are the intervals of the values, one for each or none at all, and ``points`` draws the
    series as points above the bars.
    """

    name: str
    values: Sequence[float | None]
    spans: Sequence[tuple[float, float] | None] = ()
    points: bool = False

    def span(self, index: int) -> tuple[float, float] | None:
        """The interval of a value."""
        return self.spans[index] if self.spans else None


@dataclass(frozen=True)
class Rule:
    """A level to compare with, drawn across the chart."""

    name: str
    value: float


@dataclass(frozen=True)
class Mark:
    """A place on the x axis to point at: the index of a label."""

    name: str
    index: int


@dataclass(frozen=True)
class Chart:
    """What a chart shows.

    ``labels`` are the places on the x axis, at equal distances, and ``x_name`` says what they are. ``unit`` is that of
    the values, ``decimals`` their number in texts and in the table. The y axis begins at ``low``, or at the least value
    where it is None, and ends at ``high`` or the next round number; both give way to values beyond them. With a ``key``
    of its own on the page, the table stays unfolded where the chart is replaced by a newer one. ``each_named`` is for
    labels that are names and not points of a scale: none is left out, and they are slanted where they have no room.
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
