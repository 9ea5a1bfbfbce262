"""Render a chart as a figure with a caption, a legend, an SVG and a table of its values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise

from markupsafe import Markup

from retllm.charts.axes import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    SLANTED,
    TOP,
    WIDTH,
    Scale,
    axes,
    is_slanted,
    margin,
    scale_of,
)
from retllm.charts.chart import Chart, Series, finite, number_of
from retllm.charts.elements import short, tag

# height of a line of text
_LINE = 11
# half the width of the caps of an interval, and its maximum share of the bar's width
_CAP, _CAP_SHARE = 3.0, 0.3
# maximum number of labels with a marker at each point
_MAX_MARKERS = 48
_COLOURS = 6
_MARKERS = ("circle", "square", "triangle", "diamond")


def lines(chart: Chart) -> Markup:
    """Draw each series as a line, interrupted by gaps.

    Raises:
        ValueError: the numbers of values and labels differ.
    """
    return _figure(chart, "line", _levels(chart), _draw_lines)


def bars(chart: Chart) -> Markup:
    """Draw a bar for each value; the bars of one label are next to each other.

    Raises:
        ValueError: the numbers of values and labels differ.
    """
    return _figure(chart, "bar", [*_levels(chart), 0.0], _draw_bars)


def stacked(chart: Chart) -> Markup:
    """Draw a stacked bar for each label, the first series at the bottom.

    Raises:
        ValueError: a value is negative, or the numbers of values and labels differ.
    """
    values = [value for series in chart.series for value in finite(series)]
    if any(value is not None and value < 0 for value in values):
        raise ValueError(f"A stacked bar can't have a negative value: {chart.title}.")
    heights = [sum(column) for column in _columns(chart)]
    return _figure(chart, "bar", [*heights, *(rule.value for rule in chart.rules), 0.0], _draw_stacks)


def _figure(chart: Chart, key: str, levels: Sequence[float], draw: Callable[[Chart, Scale], Markup]) -> Markup:
    for series in chart.series:
        if len(series.values) != len(chart.labels):
            raise ValueError(f"{series.name} has {len(series.values)} values for {len(chart.labels)} labels.")
    caption = tag("figcaption", chart.title)
    if not any(value is not None for series in chart.series for value in finite(series)):
        no_data = tag("p", "No data yet.", class_="text-body-secondary mb-0")
        return tag("figure", caption, no_data, class_="chart")
    scale = scale_of(chart, levels)
    svg = tag(
        "svg",
        tag("title", chart.title),
        tag("desc", _description(chart)),
        axes(chart, scale),
        draw(chart, scale),
        _pointers(chart, scale),
        viewBox=f"0 0 {WIDTH + margin(chart)} {HEIGHT + (SLANTED if is_slanted(chart) else 0)}",
        role="img",
    )
    return tag("figure", caption, _legend(chart, key), svg, _table(chart), class_="chart")


def _pointers(chart: Chart, scale: Scale) -> Markup:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    in_margin = margin(chart) > 0
    parts, text_y = [], -math.inf
    for rule in sorted(chart.rules, key=lambda rule: -rule.value):
        y = scale.y(rule.value)
        parts.append(tag("line", x1=LEFT, x2=right, y1=short(y), y2=short(y), class_="chart-rule"))
        # the names of close rules are below each other
        text_y = max(y + 3 if in_margin else y - 4, text_y + _LINE)
        x, class_name = (right + 3, "chart-beside") if in_margin else (right, "chart-rule-name")
        parts.append(tag("text", rule.name, x=x, y=short(text_y), class_=class_name))
    for mark in chart.marks:
        mark_x = short(scale.x(mark.index))
        parts.append(tag("line", x1=mark_x, x2=mark_x, y1=TOP, y2=bottom, class_="chart-rule"))
        parts.append(tag("text", mark.name, x=mark_x, y=TOP - 5, class_="chart-label"))
    return tag("g", *parts)


def _legend(chart: Chart, key: str) -> Markup:
    if len(chart.series) < 2:
        return Markup("")
    entries = []
    for number, series in enumerate(chart.series):
        if series.points:
            drawn = [_marker(number, series, 14, 6)]
        elif key == "line":
            drawn = [
                tag("path", d="M1,6L27,6", class_=f"chart-line {_colour(number, series)}"),
                _marker(number, series, 14, 6),
            ]
        else:
            drawn = [tag("rect", x=7, y=0, width=14, height=12, class_=f"chart-bar {_colour(number, series)}")]
        symbol = tag("svg", *drawn, viewBox="0 0 28 12", aria_hidden="true", class_="chart-sign")
        entries.append(tag("li", symbol, " ", series.name))
    return tag("ul", *entries, class_="chart-legend list-unstyled")


def _table(chart: Chart) -> Markup:
    head = [tag("th", name, scope="col") for name in (chart.x_name or "Label", *(s.name for s in chart.series))]
    rows = [
        tag(
            "tr",
            tag("th", label, scope="row"),
            *(tag("td", _with_span(chart, series, index)) for series in chart.series),
        )
        for index, label in enumerate(chart.labels)
    ]
    table = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *rows), class_="table table-sm mb-0")
    region = tag("div", table, class_="chart-numbers", tabindex=0, role="region", aria_label=f"{chart.title}: values")
    attributes = {"id": f"numbers-{chart.key}"} if chart.key else {}
    return tag("details", tag("summary", "Values"), region, **attributes)


def _description(chart: Chart) -> str:
    """Describe the chart for screen readers: maximum and last value of each series, rules and marks."""
    sentences = []
    for series in chart.series:
        points = [
            (value, label) for value, label in zip(finite(series), chart.labels, strict=True) if value is not None
        ]
        if points:
            (maximum, at_maximum), (last, at_last) = max(points, key=lambda point: point[0]), points[-1]
            sentences.append(
                f"{series.name}: maximum {_formatted(chart, maximum)} ({at_maximum}), "
                f"last {_formatted(chart, last)} ({at_last})."
            )
    sentences += [f"{rule.name}: {_formatted(chart, rule.value)}." for rule in chart.rules]
    sentences += [f"{mark.name}: {chart.labels[mark.index]}." for mark in chart.marks]
    return " ".join(sentences)


def _formatted(chart: Chart, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.{chart.decimals}f} {chart.unit}".strip()


def _with_span(chart: Chart, series: Series, index: int) -> str:
    value, span = number_of(series.values[index]), series.span(index)
    if value is None or span is None:
        return _formatted(chart, value)
    return f"{_formatted(chart, value)} ({span[0]:,.{chart.decimals}f} to {span[1]:,.{chart.decimals}f})"


def _draw_lines(chart: Chart, scale: Scale) -> Markup:
    parts = []
    for number, series in enumerate(chart.series):
        for run in _runs(finite(series)):
            if len(run) > 1:
                path = "L".join(f"{short(scale.x(index))},{short(scale.y(value))}" for index, value in run)
                parts.append(tag("path", d=f"M{path}", class_=f"chart-line {_colour(number, series)}"))
            if len(run) == 1 or len(chart.labels) <= _MAX_MARKERS:
                parts += [
                    _marker(number, series, scale.x(index), scale.y(value), _point_title(chart, series, index))
                    for index, value in run
                ]
    return tag("g", *parts)


def _runs(values: Sequence[float | None]) -> Iterator[list[tuple[int, float]]]:
    """Yield runs of values without a gap, each value with its index."""
    run: list[tuple[int, float]] = []
    for index, value in enumerate([*values, None]):
        if value is not None:
            run.append((index, value))
        elif run:
            yield run
            run = []


def _draw_bars(chart: Chart, scale: Scale) -> Markup:
    drawn = [(number, series) for number, series in enumerate(chart.series) if not series.points]
    width = scale.band * 0.8 / max(1, len(drawn))
    parts = []
    for column, (number, series) in enumerate(drawn):
        for index, value in enumerate(finite(series)):
            left = scale.x(index) + width * (column - len(drawn) / 2)
            if value:
                title = _point_title(chart, series, index)
                parts.append(_bar(_colour(number, series), left, width, scale.y(0), scale.y(value), title))
            if span := series.span(index):
                cap = min(_CAP, width * _CAP_SHARE)
                parts.append(_interval(left + width / 2, cap, scale.y(span[0]), scale.y(span[1])))
    return tag("g", *parts, *_points(chart, scale))


def _points(chart: Chart, scale: Scale) -> Iterator[Markup]:
    """Yield the points of the series that are drawn as points over the bars."""
    for number, series in enumerate(chart.series):
        if series.points:
            for index, value in enumerate(finite(series)):
                if value is not None:
                    yield _marker(number, series, scale.x(index), scale.y(value), _point_title(chart, series, index))


def _interval(x: float, cap: float, low: float, high: float) -> Markup:
    half, whole = short(cap), short(2 * cap)
    path = f"M{short(x - cap)},{short(low)}h{whole}m-{half},0V{short(high)}m-{half},0h{whole}"
    return tag("path", d=path, class_="chart-span")


def _draw_stacks(chart: Chart, scale: Scale) -> Markup:
    width = scale.band * 0.8
    parts = []
    for index, column in enumerate(_columns(chart)):
        edges = pairwise(accumulate(column, initial=0.0))
        for number, (series, (below, above)) in enumerate(zip(chart.series, edges, strict=True)):
            if above > below:
                title = _point_title(chart, series, index)
                left = scale.x(index) - width / 2
                parts.append(_bar(_colour(number, series), left, width, scale.y(below), scale.y(above), title))
    return tag("g", *parts)


def _bar(colour: str, left: float, width: float, y1: float, y2: float, title: str) -> Markup:
    """Draw a bar between two y coordinates, in either order."""
    return tag(
        "rect",
        tag("title", title),
        x=short(left),
        y=short(min(y1, y2)),
        width=short(width),
        height=short(abs(y1 - y2)),
        class_=f"chart-bar {colour}",
    )


def _marker(number: int, series: Series, x: float, y: float, title: str = "") -> Markup:
    """Draw a point; its shape identifies the series without relying on colour."""
    move = f"M{short(x)},{short(y)}"
    path = {
        "circle": f"{move}m-3,0a3,3 0 1 0 6,0a3,3 0 1 0 -6,0z",
        "square": f"{move}m-3,-3h6v6h-6z",
        "triangle": f"{move}m0,-4l4,7h-8z",
        "diamond": f"{move}m0,-4l4,4l-4,4l-4,-4z",
    }[_MARKERS[number % len(_MARKERS)]]
    return tag("path", tag("title", title) if title else "", d=path, class_=f"chart-point {_colour(number, series)}")


def _colour(number: int, series: Series) -> str:
    return f"chart-{series.colour}" if series.colour else f"c{number % _COLOURS + 1}"


def _point_title(chart: Chart, series: Series, index: int) -> str:
    return f"{chart.labels[index]}, {series.name}: {_with_span(chart, series, index)}"


def _columns(chart: Chart) -> list[list[float]]:
    """Return for each label the values of all series; a gap counts as 0."""
    return [[value or 0.0 for value in column] for column in zip(*map(finite, chart.series), strict=True)]


def _levels(chart: Chart) -> list[float]:
    """Return all values that must be inside the y axis."""
    drawn = [value for series in chart.series for value in finite(series) if value is not None]
    spans = [bound for series in chart.series for span in series.spans if span for bound in span]
    return [*drawn, *spans, *(rule.value for rule in chart.rules)]
