"""Heat maps and charts from a trace."""

from __future__ import annotations

import dataclasses

import pytest

from retllm.fine.injection import Injection
from retllm.fine.trace import Grid, Side, Trace, Weights
from retllm_web.render import heat


def _trace(
    weights: list[float] | None, grids: tuple[Grid | None, ...], shown: tuple[Side, ...] = ("candidate",)
) -> Trace:
    return Trace(
        uncertainty=(0.2, 0.9, 0.4, 0.1),
        armed_layer=2,
        plain_score=0.5,
        injected_score=0.6,
        map_layer=2 if weights else None,
        weights=Weights.of(weights) if weights else None,
        shown=shown,
        grids=grids,
    )


def _cells(one: heat.Heat) -> dict[tuple[int, int], float]:
    return {(cell.row, cell.column): cell.strength for cell in one.cells}


def test_weights_are_scaled_from_the_lowest_to_the_highest_and_laid_out_row_by_row() -> None:
    (one,) = heat.heats(_trace([-1.0, 0.0, 1.0, 3.0, -1.0, -1.0], ((2, 3),)))
    assert (one.rows, one.columns) == (2, 3)
    assert _cells(one) == {(0, 1): 0.25, (0, 2): 0.5, (1, 0): 1.0}


def test_the_two_pictures_of_a_pair_share_one_scale_and_have_separate_grids() -> None:
    first, second = heat.heats(_trace([0.0, 1.0, 2.0, 4.0], ((1, 2), (2, 1)), ("query", "candidate")))
    assert (first.side, first.rows, first.columns, _cells(first)) == ("query", 1, 2, {(0, 1): 0.25})
    assert (second.side, second.rows, second.columns) == ("candidate", 2, 1)
    assert _cells(second) == {(0, 0): 0.5, (1, 0): 1.0}


@pytest.mark.parametrize(
    ("at", "where"), [((0, 0), "top left"), ((5, 8), "bottom right"), ((0, 4), "top centre"), ((3, 4), "in the middle")]
)
def test_the_description_names_the_position_of_the_strongest_cell(at: tuple[int, int], where: str) -> None:
    weights = [1.0 if (row, column) == at else 0.0 for row in range(6) for column in range(9)]
    (one,) = heat.heats(_trace(weights, ((6, 9),)))
    assert where in one.words
    assert "100 %" in one.words


def test_a_large_grid_is_downsampled_without_losing_its_edges() -> None:
    rows, columns = 100, 50
    weights = [
        1.0 if row == rows - 1 and column == columns - 1 else 0.0 for row in range(rows) for column in range(columns)
    ]
    (one,) = heat.heats(_trace(weights, ((rows, columns),)))
    assert max(one.rows, one.columns) <= 48
    # the last cell holds 1 row and 2 columns of the grid
    assert _cells(one) == {(one.rows - 1, one.columns - 1): 0.5}


def test_equal_weights_are_described_as_uniform_and_give_no_cells() -> None:
    (one,) = heat.heats(_trace([0.5] * 4, ((2, 2),)))
    assert one.cells == ()
    assert "uniform" in one.words


@pytest.mark.parametrize(("weights", "grids"), [(None, ((2, 2),)), ([1.0, 2.0], (None,))])
def test_the_description_says_if_there_is_no_map(weights: list[float] | None, grids: tuple[Grid | None, ...]) -> None:
    (one,) = heat.heats(_trace(weights, grids))
    assert one.cells == ()
    assert "No map" in one.words


def test_the_chart_shows_tau_only_for_the_entropy_trigger_and_a_mark_only_for_an_armed_layer() -> None:
    trace = _trace([1.0], ((1, 1),))
    chart = heat.uncertainty_chart(trace, Injection(tau=0.6))
    assert list(chart.labels) == ["0", "1", "2", "3"]
    assert [(rule.value, mark.index) for rule, mark in zip(chart.rules, chart.marks, strict=True)] == [(0.6, 2)]
    assert not heat.uncertainty_chart(trace, Injection(trigger="fixed", fixed_layer=2)).rules
    assert not heat.uncertainty_chart(dataclasses.replace(trace, armed_layer=None), Injection()).marks


@pytest.mark.parametrize(
    ("injection", "expected"),
    [
        (Injection(), "Layers 6 to 15 were monitored"),
        (
            Injection(start=1, end=4, tau=0.5),
            "Layers 2 to 3 were monitored: the first with an uncertainty above 0.5",
        ),
        (Injection(start=2, end=4), "Layer 3 was monitored: an uncertainty above 0.75"),
        (Injection(trigger="fixed", fixed_layer=3), "set to layer 3"),
        (Injection(trigger="off"), "off"),
        (Injection(alpha=0.0), "off"),
    ],
)
def test_the_monitored_layers_are_described(injection: Injection, expected: str) -> None:
    assert expected in heat.watched_words(injection, 28)
