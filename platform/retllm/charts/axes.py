"""The axes of a chart: the scale of its values, its ticks, and the labels that fit."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from retllm.charts.chart import Chart, finite
from retllm.charts.elements import short, tag

WIDTH, HEIGHT = 400, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 16, 22, 40
# additional height for slanted labels
SLANTED = 56
_TICKS = 4
_LABELS = 5
# total number of characters that fit into the labels of the x axis
_LABEL_CHARACTERS = 44
# maximum width of a character
_GLYPH = 7
_STEPS = (1, 2, 2.5, 5, 10)


class Scale:
    """Maps labels and values to coordinates."""

    def __init__(self, count: int, low: float, high: float, ticks: Sequence[float] = ()) -> None:
        self.low, self.high, self.ticks = low, high, ticks
        self.band = (WIDTH - LEFT - RIGHT) / count

    def x(self, index: int) -> float:
        """Return the x coordinate of a label's centre."""
        return LEFT + self.band * (index + 0.5)

    def share(self, value: float) -> float:
        """Return the position of a value on the y axis, from 0 at its start to 1 at its end."""
        return (value - self.low) / (self.high - self.low)

    def y(self, value: float) -> float:
        """Return the y coordinate of a value."""
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * self.share(value)


def scale_of(chart: Chart, levels: Sequence[float]) -> Scale:
    """Return the scale of a chart whose y axis contains all ``levels``."""
    low, high = _span([*levels, *([chart.high] if chart.high is not None else [])], chart.low)
    raw = (high - low) / _TICKS
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in _STEPS if size * factor >= raw * (1 - 1e-9))
    if all(value is None or value == int(value) for series in chart.series for value in finite(series)):
        step = max(1.0, math.ceil(step)) if high - low >= 1 else step
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    ticks = [number * step for number in range(first, last + 1)]
    return Scale(len(chart.labels), ticks[0], ticks[-1], ticks)


def _span(levels: Sequence[float], low: float | None) -> tuple[float, float]:
    """Return minimum and maximum of the levels, which are never equal."""
    minimum, maximum = min(levels, default=0.0), max(levels, default=1.0)
    minimum = minimum if low is None else min(low, minimum)
    return (minimum, maximum) if maximum > minimum else (minimum, minimum + (abs(minimum) or 1.0))


def axes(chart: Chart, scale: Scale) -> Markup:
    """Draw the grid and the labels of both axes."""
    left, right = LEFT, WIDTH - RIGHT
    parts = [tag("text", chart.unit, x="2", y="10", class_="chart-unit")] if chart.unit else []
    for tick in scale.ticks:
        y = short(scale.y(tick))
        # -0.0 would be printed with its sign
        parts.append(tag("line", x1=left, x2=right, y1=y, y2=y, class_="chart-base" if tick == 0 else "chart-grid"))
        parts.append(tag("text", _tick(tick or 0.0, scale), x=left - 5, y=y, class_="chart-tick"))
    parts += _slanted(chart, scale) if is_slanted(chart) else _horizontal(chart, scale)
    if chart.x_name:
        low = HEIGHT + (SLANTED if is_slanted(chart) else 0) - 5
        parts.append(tag("text", chart.x_name, x=(left + right) // 2, y=low, class_="chart-label"))
    return tag("g", *parts)


def _horizontal(chart: Chart, scale: Scale) -> list[Markup]:
    parts = []
    for index in _shown_labels(chart.labels):
        label = chart.labels[index]
        # right-align a label that would exceed the right edge
        inside = scale.x(index) + _GLYPH * len(label) / 2 <= WIDTH
        position = (
            {"x": short(scale.x(index)), "class_": "chart-label"} if inside else {"x": WIDTH, "class_": "chart-end"}
        )
        parts.append(tag("text", label, y=HEIGHT - BOTTOM + 15, **position))
    return parts


def _slanted(chart: Chart, scale: Scale) -> list[Markup]:
    parts = []
    for index, label in enumerate(chart.labels):
        x, y = short(scale.x(index) + 3), HEIGHT - BOTTOM + 12
        parts.append(tag("text", label, x=x, y=y, transform=f"rotate(-40 {x} {y})", class_="chart-end"))
    return parts


def margin(chart: Chart) -> int:
    """Return the width to add on the right for the names of several rules, which would cover too much of the chart."""
    return _GLYPH * max(len(rule.name) for rule in chart.rules) if len(chart.rules) > 1 else 0


def is_slanted(chart: Chart) -> bool:
    """Return whether the labels of the x axis are slanted, because they do not fit otherwise."""
    return chart.each_named and not _all_fit(chart.labels)


def _all_fit(labels: Sequence[str]) -> bool:
    return len(labels) * max(len(label) for label in labels) <= _LABEL_CHARACTERS


def _shown_labels(labels: Sequence[str]) -> list[int]:
    """Return the indices of the labels to show: as many as fit, at equal distances, starting from the last."""
    longest = max(len(label) for label in labels)
    limit = max(1, min(_LABELS, _LABEL_CHARACTERS // max(1, longest)))
    step = 1 if _all_fit(labels) else math.ceil(len(labels) / limit)
    return list(range(len(labels) - 1, -1, -step))


def _tick(value: float, scale: Scale) -> str:
    step = scale.ticks[1] - scale.ticks[0]
    for size, sign in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if max(map(abs, scale.ticks)) >= 10 * size:
            return f"{short(value / size)}{sign}"
    decimals = next((n for n in range(7) if abs(round(step, n) - step) < step * 1e-6), 6)
    return f"{value:,.{decimals}f}"
