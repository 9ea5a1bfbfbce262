"""Charts show their numbers as drawing, text and table, accessible and in every theme."""

from __future__ import annotations

import itertools
import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from retllm.charts import Chart, Mark, Rule, Series, bars, lines, stacked

_EVERY = (lines, bars, stacked)


def _chart(**values: list[float | None]) -> Chart:
    labels = [f"day {n}" for n in range(len(next(iter(values.values()))))]
    return Chart("Jobs", labels, [Series(name, row) for name, row in values.items()], x_name="day", unit="jobs")


def _tree(drawn: Markup) -> ElementTree.Element:
    return ElementTree.fromstring(drawn)


def _svg(drawn: Markup) -> ElementTree.Element:
    return next(one for one in _tree(drawn).findall("svg"))


def _drawn(drawn: Markup, kind: str) -> list[ElementTree.Element]:
    return [one for one in _svg(drawn).iter() if one.get("class", "").startswith(kind)]


def _heights(drawn: Markup) -> list[float]:
    return [float(one.get("height", "")) for one in _drawn(drawn, "chart-bar")]


@pytest.mark.parametrize("draw", _EVERY)
def test_a_chart_has_a_title_a_description_and_a_table_of_its_values(draw) -> None:
    tree = _tree(draw(_chart(done=[1, 2, 3], failed=[0, None, 1])))
    svg = next(iter(tree.findall("svg")))
    assert svg.findtext("title") == "Jobs"
    assert svg.findtext("desc") == (
        "done: maximum 3 jobs (day 2), last 3 jobs (day 2). failed: maximum 1 jobs (day 2), last 1 jobs (day 2)."
    )
    cells = [["".join(cell.itertext()) for cell in row] for row in tree.iter("tr")]
    assert cells == [
        ["day", "done", "failed"],
        ["day 0", "1 jobs", "0 jobs"],
        ["day 1", "2 jobs", "–"],
        ["day 2", "3 jobs", "1 jobs"],
    ]
    assert all(cell.get("scope") for cell in tree.iter("th"))


@pytest.mark.parametrize("draw", _EVERY)
def test_a_chart_has_no_inline_styles_or_scripts_and_escapes_names(draw) -> None:
    name = '<script>alert("x")</script>'
    drawn = draw(Chart(name, [name], [Series(name, [1]), Series("b", [2])], x_name=name, unit=name))
    assert not re.search(r"<(script|style)", drawn)
    assert not re.search(r"\s(style|on\w+)=", drawn)
    assert _svg(drawn).findtext("title") == name


def test_bar_heights_are_proportional_to_values_and_bars_share_a_baseline() -> None:
    one, two, four = _heights(bars(_chart(jobs=[1, 2, 4])))
    assert (two / one, four / one) == (pytest.approx(2, abs=0.01), pytest.approx(4, abs=0.01))
    feet = {
        round(float(b.get("y", "")) + float(b.get("height", ""))) for b in _drawn(bars(_chart(j=[1, 2])), "chart-bar")
    }
    assert len(feet) == 1


def test_a_bar_of_a_negative_value_extends_below_the_baseline() -> None:
    up, down = _drawn(bars(_chart(change=[2, -2])), "chart-bar")
    foot = float(up.get("y", "")) + float(up.get("height", ""))
    assert float(down.get("y", "")) == pytest.approx(foot, abs=0.02)
    assert down.get("height") == up.get("height")


def test_stacked_bars_stand_on_each_other_and_zero_values_are_omitted() -> None:
    drawn = _drawn(stacked(_chart(done=[2, 1], failed=[1, 0])), "chart-bar")
    lower, upper, alone = (one for one in drawn)
    assert float(upper.get("y", "")) + float(upper.get("height", "")) == pytest.approx(
        float(lower.get("y", "")), abs=0.02
    )
    assert lower.get("class") == alone.get("class") != upper.get("class")


def test_stacked_bars_reject_negative_values() -> None:
    with pytest.raises(ValueError, match="negative"):
        stacked(_chart(a=[-1]))


@pytest.mark.parametrize("draw", _EVERY)
def test_a_series_whose_length_differs_from_the_labels_is_rejected(draw) -> None:
    with pytest.raises(ValueError, match="2 values for 1 labels"):
        draw(Chart("Jobs", ["a"], [Series("jobs", [1, 2])]))


def test_a_missing_value_breaks_the_line_and_an_isolated_value_is_a_point() -> None:
    drawn = lines(_chart(latency=[1, 2, None, 3, math.nan, 4, 5]))
    assert len(_drawn(drawn, "chart-line")) == 2
    assert len(_drawn(drawn, "chart-point")) == 5
    many = lines(_chart(latency=[1.0] * 60 + [None, 5.0, None]))
    assert len(_drawn(many, "chart-point")) == 1


@pytest.mark.parametrize("draw", _EVERY)
@pytest.mark.parametrize("values", [[], [None, None], [math.nan]])
def test_a_chart_without_values_says_that_there_is_no_data(draw, values: list[float | None]) -> None:
    tree = _tree(draw(_chart(jobs=values)))
    assert "No data yet" in "".join(tree.itertext())
    assert tree.find("svg") is None


def test_series_have_different_marker_shapes_and_a_legend() -> None:
    drawn = lines(_chart(a=[1], b=[2], c=[3], d=[4]))
    forms = {re.sub(r"^M[\d.]+,[\d.]+", "", one.get("d", "")) for one in _drawn(drawn, "chart-point")}
    assert len(forms) == 4
    assert [one.text or one[0].tail for one in _tree(drawn).iter("li")] == [" a", " b", " c", " d"]


def test_rules_and_marks_are_drawn_labelled_and_described() -> None:
    chart = Chart("By layer", ["1", "2"], [Series("u", [0.1, 0.2])], rules=[Rule("tau", 0.9)], marks=[Mark("armed", 1)])
    svg = _svg(lines(chart))
    assert {"tau", "armed"} <= {one.text for one in svg.iter("text")}
    assert "tau: 1. armed: 2." in (svg.findtext("desc") or "")
    ys = [float(one.get("y1", "")) for one in svg.iter("line") if one.get("class") == "chart-rule"]
    assert all(0 < y < 210 for y in ys)


def test_labels_that_do_not_fit_are_omitted_except_the_last_one() -> None:
    chart = Chart("Hours", [f"2026-01-01 {n:02}:00" for n in range(24)], [Series("jobs", [1] * 24)])
    shown = [one.text for one in _svg(bars(chart)).iter("text") if one.get("class") in ("chart-label", "chart-end")]
    assert 1 <= len(shown) <= 3
    assert chart.labels[-1] in shown


@pytest.mark.parametrize(
    ("most", "expected"),
    [(3, ["0", "1", "2", "3"]), (0.004, ["0.000", "0.001", "0.002", "0.003", "0.004"]), (40_000, ["0 k", "10 k"])],
)
def test_axis_ticks_have_round_steps(most: float, expected: list[str]) -> None:
    svg = _svg(lines(Chart("x", ["a"], [Series("s", [most])])))
    ticks = [one.text for one in svg.iter("text") if one.get("class") == "chart-tick"]
    assert ticks[: len(expected)] == expected


@given(
    st.lists(st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True, width=32)), min_size=1, max_size=30),
    st.one_of(st.none(), st.just(0.0)),
)
def test_every_finite_value_is_drawn_inside_the_chart(values: list[float | None], low: float | None) -> None:
    drawn = lines(Chart("x", [str(n) for n in range(len(values))], [Series("s", values)], low=low))
    finite = [value for value in values if value is not None and math.isfinite(value)]
    if not finite:
        assert _tree(drawn).find("svg") is None
        return
    points = [re.match(r"M(-?[\d.]+),(-?[\d.]+)", one.get("d", "")) for one in _drawn(drawn, "chart-point")]
    places = [(float(found[1]), float(found[2])) for found in points if found]
    assert len(places) == len(finite)
    assert all(0 <= x <= 400 and 0 <= y <= 210 for x, y in places)


def test_labels_that_are_names_are_all_kept_and_slanted_if_they_do_not_fit() -> None:
    names = ["enhancement only", "k=3", "mode verbalized", "fixed, suffix"]
    chart = Chart("Variants", names, [Series("fine", [1, 2, 3, 4])], each_named=True)
    shown = [one for one in _svg(bars(chart)).iter("text") if one.get("transform")]
    assert [one.text for one in shown] == names
    few = Chart("Variants", ["a", "b"], [Series("fine", [1, 2])], each_named=True)
    assert not [one for one in _svg(bars(few)).iter("text") if one.get("transform")]


def test_a_long_last_label_is_aligned_with_the_right_edge() -> None:
    labels = [f"{n} Nov 00:00" for n in range(10, 38)]
    chart = Chart("Days", labels, [Series("jobs", [1] * 28)])
    (last,) = [one for one in _svg(lines(chart)).iter("text") if one.get("class") == "chart-end"]
    assert (last.text, last.get("x")) == (labels[-1], "400")


def test_a_zero_value_has_no_bar() -> None:
    assert len(_drawn(bars(_chart(jobs=[0, 1, 0])), "chart-bar")) == 1


def test_intervals_of_values_are_shown_in_the_chart_and_in_the_table() -> None:
    series = Series("fine", [50.0, 80.0, None], [(40.0, 60.0), None, None])
    drawn = bars(Chart("Recall", ["a", "b", "c"], [series], unit="%", high=100))
    (span,) = _drawn(drawn, "chart-span")
    low, high = re.fullmatch(r"M[\d.]+,([\d.]+)h6m-3,0V([\d.]+)m-3,0h6", span.get("d", "")).groups()
    (bar, _) = _drawn(drawn, "chart-bar")
    top = float(bar.get("y", ""))
    assert float(high) < top < float(low)
    assert bar.findtext("title") == "a, fine: 50 % (40 to 60)"
    assert [cell.text for cell in _tree(drawn).iter("td")] == ["50 % (40 to 60)", "80 %", "–"]


def test_the_scale_includes_intervals() -> None:
    (span,) = _drawn(bars(Chart("Recall", ["a"], [Series("fine", [3.0], [(1.0, 9.0)])])), "chart-span")
    assert all(float(y) >= 0 for y in re.findall(r"[,V]([\d.-]+)", span.get("d", "")))


def test_a_series_of_points_does_not_narrow_the_bars() -> None:
    alone = bars(Chart("Recall", ["a", "b"], [Series("fine", [1, 2])]))
    paper = Series("paper", [2, None], points=True)
    both = bars(Chart("Recall", ["a", "b"], [Series("fine", [1, 2]), paper]))
    assert [bar.get("width") for bar in _drawn(both, "chart-bar")] == [
        bar.get("width") for bar in _drawn(alone, "chart-bar")
    ]
    (point,) = _drawn(both, "chart-point")
    assert point.findtext("title") == "a, paper: 2"


def test_labels_of_close_rules_do_not_overlap() -> None:
    rules = [Rule(name, value) for name, value in (("E5-V", 79.5), ("CLIP", 67.3), ("UniME", 81.9))]
    drawn = bars(Chart("Recall", ["a"], [Series("fine", [82.0])], high=100, rules=rules))
    names = {one.text: float(one.get("y", "")) for one in _drawn(drawn, "chart-beside")}
    assert list(names) == ["UniME", "E5-V", "CLIP"]
    heights = list(names.values())
    assert all(below - above >= 11 for above, below in itertools.pairwise(heights))
