"""Drawing: a chart becomes a figure of a caption, a legend, an SVG and a table of its numbers."""

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
# characters that the labels of the x axis have room for together
_ROOM = 44
# height of a line of text
_LINE = 11
# half the width of the ends of an interval, and what share of its bar they take at most
_CAP, _CAP_SHARE = 3.0, 0.3
# more points than these stand too close for a marker at each
_MARKED = 48
# width of a character at most
_GLYPH = 7
# room below for labels that are written slanted
_SLANTED = 56
_COLOURS = 6
_MARKERS = ("circle", "square", "triangle", "diamond")
_STEPS = (1, 2, 2.5, 5, 10)


def lines(chart: Chart) -> Markup:
    """Each series as a line; a gap breaks it.

    Raises:
        ValueError: a series has another number of values than there are labels.
    """
    return _figure(chart, "line", _levels(chart), _draw_lines)


def bars(chart: Chart) -> Markup:
    """A bar for each value; those of one label stand side by side.

    Raises:
        ValueError: a series has another number of values than there are labels.
    """
    return _figure(chart, "bar", [*_levels(chart), 0.0], _draw_bars)


def stacked(chart: Chart) -> Markup:
    """A bar for each label, made of the values of all series, the first at the bottom; none may be negative.

    Raises:
        ValueError: a value is negative, or a series has another number of values than there are labels.
    """
    values = [value for series in chart.series for value in _finite(series)]
    if any(value is not None and value < 0 for value in values):
        raise ValueError(f"A stack can't hold a negative value: {chart.title}.")
    heights = [sum(column) for column in _columns(chart)]
    return _figure(chart, "bar", [*heights, *(rule.value for rule in chart.rules), 0.0], _draw_stacks)


class _Scale:
    """Where labels and values lie in the picture."""

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
        nothing = _tag("p", "There is nothing to draw yet.", class_="text-body-secondary mb-0")
        return _tag("figure", caption, nothing, class_="chart")
    scale = _scale(chart, levels)
    picture = _tag(
        "svg",
        _tag("title", chart.title),
        _tag("desc", _in_words(chart)),
        _axes(chart, scale),
        draw(chart, scale),
        _pointers(chart, scale),
        viewBox=f"0 0 {_WIDTH + _margin(chart)} {_HEIGHT + (_SLANTED if _is_slanted(chart) else 0)}",
        role="img",
    )
    return _tag("figure", caption, _legend(chart, key), picture, _table(chart), class_="chart")


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
    """The least and the greatest level, never the same."""
    least, most = min(levels, default=0.0), max(levels, default=1.0)
    least = least if low is None else min(low, least)
    return (least, most) if most > least else (least, least + (abs(least) or 1.0))


def _axes(chart: Chart, scale: _Scale) -> Markup:
    left, right = _LEFT, _WIDTH - _RIGHT
    parts = [_tag("text", chart.unit, x="2", y="10", class_="chart-unit")] if chart.unit else []
    for tick in scale.ticks:
        y = _short(scale.y(tick))
        # a value of -0.0 would be written with its sign
        parts.append(_tag("line", x1=left, x2=right, y1=y, y2=y, class_="chart-base" if tick == 0 else "chart-grid"))
        parts.append(_tag("text", _tick(tick or 0.0, scale), x=left - 5, y=y, class_="chart-tick"))
    parts += _slanted(chart, scale) if _is_slanted(chart) else _level(chart, scale)
    if chart.x_name:
        low = _HEIGHT + (_SLANTED if _is_slanted(chart) else 0) - 5
        parts.append(_tag("text", chart.x_name, x=(left + right) // 2, y=low, class_="chart-label"))
    return _tag("g", *parts)


def _level(chart: Chart, scale: _Scale) -> list[Markup]:
    parts = []
    for index in _named(chart.labels):
        label = chart.labels[index]
        # one that would leave the picture ends with it
        inside = scale.x(index) + _GLYPH * len(label) / 2 <= _WIDTH
        place = (
            {"x": _short(scale.x(index)), "class_": "chart-label"} if inside else {"x": _WIDTH, "class_": "chart-end"}
        )
        parts.append(_tag("text", label, y=_HEIGHT - _BOTTOM + 15, **place))
    return parts


def _slanted(chart: Chart, scale: _Scale) -> list[Markup]:
    parts = []
    for index, label in enumerate(chart.labels):
        x, y = _short(scale.x(index) + 3), _HEIGHT - _BOTTOM + 12
        parts.append(_tag("text", label, x=x, y=y, transform=f"rotate(-40 {x} {y})", class_="chart-end"))
    return parts


def _margin(chart: Chart) -> int:
    """Room on the right for the names of several levels, which would hide too much of the picture."""
    return _GLYPH * max(len(rule.name) for rule in chart.rules) if len(chart.rules) > 1 else 0


def _is_slanted(chart: Chart) -> bool:
    return chart.each_named and not _have_room(chart.labels)


def _have_room(labels: Sequence[str]) -> bool:
    return len(labels) * max(len(label) for label in labels) <= _ROOM


def _named(labels: Sequence[str]) -> list[int]:
    """Which labels are written: as many as have room, at equal distances, counted from the last."""
    longest = max(len(label) for label in labels)
    most = max(1, min(_LABELS, _ROOM // max(1, longest)))
    every = 1 if _have_room(labels) else math.ceil(len(labels) / most)
    return list(range(len(labels) - 1, -1, -every))


def _tick(value: float, scale: _Scale) -> str:
    step = scale.ticks[1] - scale.ticks[0]
    for size, sign in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if max(map(abs, scale.ticks)) >= 10 * size:
            return f"{_short(value / size)}{sign}"
    decimals = next((n for n in range(7) if abs(round(step, n) - step) < step * 1e-6), 6)
    return f"{value:,.{decimals}f}"


def _pointers(chart: Chart, scale: _Scale) -> Markup:
    right, floor = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    beside = _margin(chart) > 0
    parts, above = [], -math.inf
    for rule in sorted(chart.rules, key=lambda one: -one.value):
        y = scale.y(rule.value)
        parts.append(_tag("line", x1=_LEFT, x2=right, y1=_short(y), y2=_short(y), class_="chart-rule"))
        # names of levels close to each other stand below each other
        above = max(y + 3 if beside else y - 4, above + _LINE)
        at, name = (right + 3, "chart-beside") if beside else (right, "chart-rule-name")
        parts.append(_tag("text", rule.name, x=at, y=_short(above), class_=name))
    for mark in chart.marks:
        x = _short(scale.x(mark.index))
        parts.append(_tag("line", x1=x, x2=x, y1=_TOP, y2=floor, class_="chart-rule"))
        parts.append(_tag("text", mark.name, x=x, y=_TOP - 5, class_="chart-label"))
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
        sign = _tag("svg", *drawn, viewBox="0 0 28 12", aria_hidden="true", class_="chart-sign")
        entries.append(_tag("li", sign, " ", series.name))
    return _tag("ul", *entries, class_="chart-legend list-unstyled")


def _table(chart: Chart) -> Markup:
    head = [_tag("th", name, scope="col") for name in (chart.x_name or "Place", *(s.name for s in chart.series))]
    rows = [
        _tag(
            "tr",
            _tag("th", label, scope="row"),
            *(_tag("td", _with_span(chart, series, index)) for series in chart.series),
        )
        for index, label in enumerate(chart.labels)
    ]
    table = _tag("table", _tag("thead", _tag("tr", *head)), _tag("tbody", *rows), class_="table table-sm mb-0")
    region = _tag(
        "div", table, class_="chart-numbers", tabindex=0, role="region", aria_label=f"{chart.title}: the numbers"
    )
    unfolded = {"id": f"numbers-{chart.key}"} if chart.key else {}
    return _tag("details", _tag("summary", "The numbers"), region, **unfolded)


def _in_words(chart: Chart) -> str:
    """What somebody would read off the picture, series by series."""
    told = []
    for series in chart.series:
        points = [
            (value, label) for value, label in zip(_finite(series), chart.labels, strict=True) if value is not None
        ]
        if points:
            (most, where), (last, end) = max(points, key=lambda point: point[0]), points[-1]
            told.append(
                f"{series.name}: at most {_worded(chart, most)} ({where}), at last {_worded(chart, last)} ({end})."
            )
    told += [f"{rule.name}: {_worded(chart, rule.value)}." for rule in chart.rules]
    told += [f"{mark.name}: {chart.labels[mark.index]}." for mark in chart.marks]
    return " ".join(told)


def _worded(chart: Chart, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.{chart.decimals}f} {chart.unit}".strip()


def _with_span(chart: Chart, series: Series, index: int) -> str:
    value, span = _number(series.values[index]), series.span(index)
    if value is None or span is None:
        return _worded(chart, value)
    return f"{_worded(chart, value)} ({span[0]:,.{chart.decimals}f} to {span[1]:,.{chart.decimals}f})"


def _draw_lines(chart: Chart, scale: _Scale) -> Markup:
    parts = []
    for number, series in enumerate(chart.series):
        for run in _runs(_finite(series)):
            if len(run) > 1:
                path = "L".join(f"{_short(scale.x(index))},{_short(scale.y(value))}" for index, value in run)
                parts.append(_tag("path", d=f"M{path}", class_=f"chart-line {_colour(number)}"))
            if len(run) == 1 or len(chart.labels) <= _MARKED:
                parts += [
                    _marker(number, scale.x(index), scale.y(value), _told(chart, series, index)) for index, value in run
                ]
    return _tag("g", *parts)


def _runs(values: Sequence[float | None]) -> Iterator[list[tuple[int, float]]]:
    """Stretches of values without a gap, each value with its index."""
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
    for place, (number, series) in enumerate(drawn):
        for index, value in enumerate(_finite(series)):
            left = scale.x(index) + width * (place - len(drawn) / 2)
            if value:
                told = _told(chart, series, index)
                parts.append(_bar(number, left, width, scale.y(0), scale.y(value), told))
            if span := series.span(index):
                cap = min(_CAP, width * _CAP_SHARE)
                parts.append(_interval(left + width / 2, cap, scale.y(span[0]), scale.y(span[1])))
    return _tag("g", *parts, *_points(chart, scale))


def _points(chart: Chart, scale: _Scale) -> Iterator[Markup]:
    """The series that are points above the bars."""
    for number, series in enumerate(chart.series):
        if series.points:
            for index, value in enumerate(_finite(series)):
                if value is not None:
                    yield _marker(number, scale.x(index), scale.y(value), _told(chart, series, index))


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
                told = _told(chart, series, index)
                left = scale.x(index) - width / 2
                parts.append(_bar(number, left, width, scale.y(below), scale.y(above), told))
    return _tag("g", *parts)


def _bar(number: int, left: float, width: float, one: float, other: float, told: str) -> Markup:
    """A bar between two heights, in either order."""
    return _tag(
        "rect",
        _tag("title", told),
        x=_short(left),
        y=_short(min(one, other)),
        width=_short(width),
        height=_short(abs(one - other)),
        class_=f"chart-bar {_colour(number)}",
    )


def _marker(number: int, x: float, y: float, told: str = "") -> Markup:
    """A point; its form tells the series where colours can't be told apart."""
    at = f"M{_short(x)},{_short(y)}"
    form = {
        "circle": f"{at}m-3,0a3,3 0 1 0 6,0a3,3 0 1 0 -6,0z",
        "square": f"{at}m-3,-3h6v6h-6z",
        "triangle": f"{at}m0,-4l4,7h-8z",
        "diamond": f"{at}m0,-4l4,4l-4,4l-4,-4z",
    }[_MARKERS[number % len(_MARKERS)]]
    return _tag("path", _tag("title", told) if told else "", d=form, class_=f"chart-point {_colour(number)}")


def _colour(number: int) -> str:
    return f"c{number % _COLOURS + 1}"


def _told(chart: Chart, series: Series, index: int) -> str:
    return f"{chart.labels[index]}, {series.name}: {_with_span(chart, series, index)}"


def _number(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _finite(series: Series) -> list[float | None]:
    return [_number(value) for value in series.values]


def _columns(chart: Chart) -> list[list[float]]:
    """For each label the values of all series, a gap counted as nothing."""
    return [[value or 0.0 for value in column] for column in zip(*map(_finite, chart.series), strict=True)]


def _levels(chart: Chart) -> list[float]:
    """Every height that the chart has to have room for."""
    drawn = [value for series in chart.series for value in _finite(series) if value is not None]
    spans = [bound for series in chart.series for span in series.spans if span for bound in span]
    return [*drawn, *spans, *(rule.value for rule in chart.rules)]


def _short(value: float) -> str:
    """A number with two decimals at most."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _tag(name: str, *content: str, **attributes: str | float) -> Markup:
    """An element; what is no markup is escaped. ``class_`` is the class, and an underscore stands for a hyphen."""
    names = {key: key.rstrip("_").replace("_", "-") for key in attributes}
    shown = Markup("").join(Markup(' {}="{}"').format(names[key], value) for key, value in attributes.items())
    return Markup("<{0}{1}>{2}</{0}>").format(name, shown, Markup("").join(content))
