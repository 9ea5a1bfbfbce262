"""Render a chart as a figure with a caption, a legend, an SVG and a table of its values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise

from markupsafe import Markup

from retllm.charts.chart import Chart, Series

_WIDTH, _HEIGHT = 400, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 16, 22, 40
_TICKS = 4
_LABELS = 5
# total number of characters that fit into the labels of the x axis
_LABEL_CHARACTERS = 44
# height of a line of text
_LINE = 11
# half the width of the caps of an interval, and its maximum share of the bar's width
_CAP, _CAP_SHARE = 3.0, 0.3
# maximum number of labels with a marker at each point
_MAX_MARKERS = 48
# maximum width of a character
_GLYPH = 7
# additional height for slanted labels
_SLANTED = 56
_COLOURS = 6
_MARKERS = ("circle", "square", "triangle", "diamond")
_STEPS = (1, 2, 2.5, 5, 10)


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
    values = [value for series in chart.series for value in _finite(series)]
    if any(value is not None and value < 0 for value in values):
        raise ValueError(f"A stacked bar can't have a negative value: {chart.title}.")
    heights = [sum(column) for column in _columns(chart)]
    return _figure(chart, "bar", [*heights, *(rule.value for rule in chart.rules), 0.0], _draw_stacks)


class _Scale:
    """Maps labels and values to coordinates."""

    def __init__(self, count: int, low: float, high: float, ticks: Sequence[float] = ()) -> None:
        self.low, self.high, self.ticks = low, high, ticks
        self.band = (_WIDTH - _LEFT - _RIGHT) / count

    def x(self, index: int) -> float:
        return _LEFT + self.band * (index + 0.5)

    def share(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low)

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * self.share(value)


def _figure(chart: Chart, key: str, levels: Sequence[float], draw: Callable[[Chart, _Scale], Markup]) -> Markup:
    for series in chart.series:
        if len(series.values) != len(chart.labels):
            raise ValueError(f"{series.name} has {len(series.values)} values for {len(chart.labels)} labels.")
    caption = _tag("figcaption", chart.title)
    if not any(value is not None for series in chart.series for value in _finite(series)):
        no_data = _tag("p", "No data yet.", class_="text-body-secondary mb-0")
        return _tag("figure", caption, no_data, class_="chart")
    scale = _scale(chart, levels)
    svg = _tag(
        "svg",
        _tag("title", chart.title),
        _tag("desc", _description(chart)),
        _axes(chart, scale),
        draw(chart, scale),
        _pointers(chart, scale),
        viewBox=f"0 0 {_WIDTH + _margin(chart)} {_HEIGHT + (_SLANTED if _is_slanted(chart) else 0)}",
        role="img",
    )
    return _tag("figure", caption, _legend(chart, key), svg, _table(chart), class_="chart")


def _scale(chart: Chart, levels: Sequence[float]) -> _Scale:
    low, high = _span([*levels, *([chart.high] if chart.high is not None else [])], chart.low)
    raw = (high - low) / _TICKS
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in _STEPS if size * factor >= raw * (1 - 1e-9))
    if all(value is None or value == int(value) for series in chart.series for value in _finite(series)):
        step = max(1.0, math.ceil(step)) if high - low >= 1 else step
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    ticks = [number * step for number in range(first, last + 1)]
    return _Scale(len(chart.labels), ticks[0], ticks[-1], ticks)


def _span(levels: Sequence[float], low: float | None) -> tuple[float, float]:
    """Return minimum and maximum of the levels, which are never equal."""
    minimum, maximum = min(levels, default=0.0), max(levels, default=1.0)
    minimum = minimum if low is None else min(low, minimum)
    return (minimum, maximum) if maximum > minimum else (minimum, minimum + (abs(minimum) or 1.0))


def _axes(chart: Chart, scale: _Scale) -> Markup:
    left, right = _LEFT, _WIDTH - _RIGHT
    parts = [_tag("text", chart.unit, x="2", y="10", class_="chart-unit")] if chart.unit else []
    for tick in scale.ticks:
        y = _short(scale.y(tick))
        # -0.0 would be printed with its sign
        parts.append(_tag("line", x1=left, x2=right, y1=y, y2=y, class_="chart-base" if tick == 0 else "chart-grid"))
        parts.append(_tag("text", _tick(tick or 0.0, scale), x=left - 5, y=y, class_="chart-tick"))
    parts += _slanted(chart, scale) if _is_slanted(chart) else _horizontal(chart, scale)
    if chart.x_name:
        low = _HEIGHT + (_SLANTED if _is_slanted(chart) else 0) - 5
        parts.append(_tag("text", chart.x_name, x=(left + right) // 2, y=low, class_="chart-label"))
    return _tag("g", *parts)


def _horizontal(chart: Chart, scale: _Scale) -> list[Markup]:
    parts = []
    for index in _shown_labels(chart.labels):
        label = chart.labels[index]
        # right-align a label that would exceed the right edge
        inside = scale.x(index) + _GLYPH * len(label) / 2 <= _WIDTH
        position = (
            {"x": _short(scale.x(index)), "class_": "chart-label"} if inside else {"x": _WIDTH, "class_": "chart-end"}
        )
        parts.append(_tag("text", label, y=_HEIGHT - _BOTTOM + 15, **position))
    return parts


def _slanted(chart: Chart, scale: _Scale) -> list[Markup]:
    parts = []
    for index, label in enumerate(chart.labels):
        x, y = _short(scale.x(index) + 3), _HEIGHT - _BOTTOM + 12
        parts.append(_tag("text", label, x=x, y=y, transform=f"rotate(-40 {x} {y})", class_="chart-end"))
    return parts


def _margin(chart: Chart) -> int:
    """Return the width to add on the right for the names of several rules, which would cover too much of the chart."""
    return _GLYPH * max(len(rule.name) for rule in chart.rules) if len(chart.rules) > 1 else 0


def _is_slanted(chart: Chart) -> bool:
    return chart.each_named and not _all_fit(chart.labels)


def _all_fit(labels: Sequence[str]) -> bool:
    return len(labels) * max(len(label) for label in labels) <= _LABEL_CHARACTERS


def _shown_labels(labels: Sequence[str]) -> list[int]:
    """Return the indices of the labels to show: as many as fit, at equal distances, starting from the last."""
    longest = max(len(label) for label in labels)
    limit = max(1, min(_LABELS, _LABEL_CHARACTERS // max(1, longest)))
    step = 1 if _all_fit(labels) else math.ceil(len(labels) / limit)
    return list(range(len(labels) - 1, -1, -step))


def _tick(value: float, scale: _Scale) -> str:
    step = scale.ticks[1] - scale.ticks[0]
    for size, sign in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if max(map(abs, scale.ticks)) >= 10 * size:
            return f"{_short(value / size)}{sign}"
    decimals = next((n for n in range(7) if abs(round(step, n) - step) < step * 1e-6), 6)
    return f"{value:,.{decimals}f}"


def _pointers(chart: Chart, scale: _Scale) -> Markup:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    in_margin = _margin(chart) > 0
    parts, text_y = [], -math.inf
    for rule in sorted(chart.rules, key=lambda rule: -rule.value):
        y = scale.y(rule.value)
        parts.append(_tag("line", x1=_LEFT, x2=right, y1=_short(y), y2=_short(y), class_="chart-rule"))
        # the names of close rules are below each other
        text_y = max(y + 3 if in_margin else y - 4, text_y + _LINE)
        x, class_name = (right + 3, "chart-beside") if in_margin else (right, "chart-rule-name")
        parts.append(_tag("text", rule.name, x=x, y=_short(text_y), class_=class_name))
    for mark in chart.marks:
        mark_x = _short(scale.x(mark.index))
        parts.append(_tag("line", x1=mark_x, x2=mark_x, y1=_TOP, y2=bottom, class_="chart-rule"))
        parts.append(_tag("text", mark.name, x=mark_x, y=_TOP - 5, class_="chart-label"))
    return _tag("g", *parts)


def _legend(chart: Chart, key: str) -> Markup:
    if len(chart.series) < 2:
        return Markup("")
    entries = []
    for number, series in enumerate(chart.series):
        if series.points:
            drawn = [_marker(number, 14, 6)]
        elif key == "line":
            drawn = [_tag("path", d="M1,6L27,6", class_=f"chart-line {_colour(number)}"), _marker(number, 14, 6)]
        else:
            drawn = [_tag("rect", x=7, y=0, width=14, height=12, class_=f"chart-bar {_colour(number)}")]
        symbol = _tag("svg", *drawn, viewBox="0 0 28 12", aria_hidden="true", class_="chart-sign")
        entries.append(_tag("li", symbol, " ", series.name))
    return _tag("ul", *entries, class_="chart-legend list-unstyled")


def _table(chart: Chart) -> Markup:
    head = [_tag("th", name, scope="col") for name in (chart.x_name or "Label", *(s.name for s in chart.series))]
    rows = [
        _tag(
            "tr",
            _tag("th", label, scope="row"),
            *(_tag("td", _with_span(chart, series, index)) for series in chart.series),
        )
        for index, label in enumerate(chart.labels)
    ]
    table = _tag("table", _tag("thead", _tag("tr", *head)), _tag("tbody", *rows), class_="table table-sm mb-0")
    region = _tag("div", table, class_="chart-numbers", tabindex=0, role="region", aria_label=f"{chart.title}: values")
    attributes = {"id": f"numbers-{chart.key}"} if chart.key else {}
    return _tag("details", _tag("summary", "Values"), region, **attributes)


def _description(chart: Chart) -> str:
    """Describe the chart for screen readers: maximum and last value of each series, rules and marks."""
    sentences = []
    for series in chart.series:
        points = [
            (value, label) for value, label in zip(_finite(series), chart.labels, strict=True) if value is not None
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
    value, span = _number(series.values[index]), series.span(index)
    if value is None or span is None:
        return _formatted(chart, value)
    return f"{_formatted(chart, value)} ({span[0]:,.{chart.decimals}f} to {span[1]:,.{chart.decimals}f})"


def _draw_lines(chart: Chart, scale: _Scale) -> Markup:
    parts = []
    for number, series in enumerate(chart.series):
        for run in _runs(_finite(series)):
            if len(run) > 1:
                path = "L".join(f"{_short(scale.x(index))},{_short(scale.y(value))}" for index, value in run)
                parts.append(_tag("path", d=f"M{path}", class_=f"chart-line {_colour(number)}"))
            if len(run) == 1 or len(chart.labels) <= _MAX_MARKERS:
                parts += [
                    _marker(number, scale.x(index), scale.y(value), _point_title(chart, series, index))
                    for index, value in run
                ]
    return _tag("g", *parts)


def _runs(values: Sequence[float | None]) -> Iterator[list[tuple[int, float]]]:
    """Yield runs of values without a gap, each value with its index."""
    run: list[tuple[int, float]] = []
    for index, value in enumerate([*values, None]):
        if value is not None:
            run.append((index, value))
        elif run:
            yield run
            run = []


def _draw_bars(chart: Chart, scale: _Scale) -> Markup:
    drawn = [(number, series) for number, series in enumerate(chart.series) if not series.points]
    width = scale.band * 0.8 / max(1, len(drawn))
    parts = []
    for column, (number, series) in enumerate(drawn):
        for index, value in enumerate(_finite(series)):
            left = scale.x(index) + width * (column - len(drawn) / 2)
            if value:
                title = _point_title(chart, series, index)
                parts.append(_bar(number, left, width, scale.y(0), scale.y(value), title))
            if span := series.span(index):
                cap = min(_CAP, width * _CAP_SHARE)
                parts.append(_interval(left + width / 2, cap, scale.y(span[0]), scale.y(span[1])))
    return _tag("g", *parts, *_points(chart, scale))


def _points(chart: Chart, scale: _Scale) -> Iterator[Markup]:
    """Yield the points of the series that are drawn as points over the bars."""
    for number, series in enumerate(chart.series):
        if series.points:
            for index, value in enumerate(_finite(series)):
                if value is not None:
                    yield _marker(number, scale.x(index), scale.y(value), _point_title(chart, series, index))


def _interval(x: float, cap: float, low: float, high: float) -> Markup:
    half, whole = _short(cap), _short(2 * cap)
    path = f"M{_short(x - cap)},{_short(low)}h{whole}m-{half},0V{_short(high)}m-{half},0h{whole}"
    return _tag("path", d=path, class_="chart-span")


def _draw_stacks(chart: Chart, scale: _Scale) -> Markup:
    width = scale.band * 0.8
    parts = []
    for index, column in enumerate(_columns(chart)):
        edges = pairwise(accumulate(column, initial=0.0))
        for number, (series, (below, above)) in enumerate(zip(chart.series, edges, strict=True)):
            if above > below:
                title = _point_title(chart, series, index)
                left = scale.x(index) - width / 2
                parts.append(_bar(number, left, width, scale.y(below), scale.y(above), title))
    return _tag("g", *parts)


def _bar(number: int, left: float, width: float, y1: float, y2: float, title: str) -> Markup:
    """Draw a bar between two y coordinates, in either order."""
    return _tag(
        "rect",
        _tag("title", title),
        x=_short(left),
        y=_short(min(y1, y2)),
        width=_short(width),
        height=_short(abs(y1 - y2)),
        class_=f"chart-bar {_colour(number)}",
    )


def _marker(number: int, x: float, y: float, title: str = "") -> Markup:
    """Draw a point; its shape identifies the series without relying on colour."""
    move = f"M{_short(x)},{_short(y)}"
    path = {
        "circle": f"{move}m-3,0a3,3 0 1 0 6,0a3,3 0 1 0 -6,0z",
        "square": f"{move}m-3,-3h6v6h-6z",
        "triangle": f"{move}m0,-4l4,7h-8z",
        "diamond": f"{move}m0,-4l4,4l-4,4l-4,-4z",
    }[_MARKERS[number % len(_MARKERS)]]
    return _tag("path", _tag("title", title) if title else "", d=path, class_=f"chart-point {_colour(number)}")


def _colour(number: int) -> str:
    return f"c{number % _COLOURS + 1}"


def _point_title(chart: Chart, series: Series, index: int) -> str:
    return f"{chart.labels[index]}, {series.name}: {_with_span(chart, series, index)}"


def _number(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _finite(series: Series) -> list[float | None]:
    return [_number(value) for value in series.values]


def _columns(chart: Chart) -> list[list[float]]:
    """Return for each label the values of all series; a gap counts as 0."""
    return [[value or 0.0 for value in column] for column in zip(*map(_finite, chart.series), strict=True)]


def _levels(chart: Chart) -> list[float]:
    """Return all values that must be inside the y axis."""
    drawn = [value for series in chart.series for value in _finite(series) if value is not None]
    spans = [bound for series in chart.series for span in series.spans if span for bound in span]
    return [*drawn, *spans, *(rule.value for rule in chart.rules)]


def _short(value: float) -> str:
    """Format a number with at most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _tag(name: str, *content: str, **attributes: str | float) -> Markup:
    """Return an element with escaped content; ``class_`` is ``class``, other underscores become hyphens."""
    names = {key: key.rstrip("_").replace("_", "-") for key in attributes}
    shown = Markup("").join(Markup(' {}="{}"').format(names[key], value) for key, value in attributes.items())
    return Markup("<{0}{1}>{2}</{0}>").format(name, shown, Markup("").join(content))
