"""Heat maps and uncertainty charts from a trace: where a model looked in a picture, and how sure it was per layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from retllm.charts import Chart, Mark, Rule, Series
from retllm.fine.injection import Injection
from retllm.fine.trace import Side, Trace

# a grid with more rows or columns is downsampled
_MAX_SIDE = 48
# a weaker cell would be invisible
_MIN = 0.02
_DOWN = ("top", "middle", "bottom")
_ACROSS = ("left", "centre", "right")


@dataclass(frozen=True)
class Cell:
    """A cell of a map; ``strength`` is relative to the strongest cell, 0 to 1."""

    row: int
    column: int
    strength: float


@dataclass(frozen=True)
class Heat:
    """A map over one picture of a pair.

    ``rows`` and ``columns`` are those of the drawing; ``words`` describes where the map is strongest. Without a map,
    ``cells`` is empty and ``words`` says why.
    """

    side: Side
    rows: int
    columns: int
    cells: tuple[Cell, ...]
    words: str


def heats(trace: Trace) -> list[Heat]:
    """Return a map for each picture of the pair, in the order shown; all use the same scale."""
    weights = [trace.picture_weights(at) for at in range(len(trace.shown))]
    known = [weight for values in weights if values for weight in values]
    if not known:
        return [
            Heat(side, 1, 1, (), "No map: the attention of this model's layers is not available.")
            for side in trace.shown
        ]
    lowest, highest = min(known), max(known)
    maps = []
    for at, (side, values) in enumerate(zip(trace.shown, weights, strict=True)):
        grid = trace.grids[at]
        if values is None or grid is None:
            why = "No map: the model does not divide this picture into a regular grid."
            maps.append(Heat(side, 1, 1, (), why))
            continue
        shares = [(value - lowest) / (highest - lowest) if highest > lowest else 0.0 for value in values]
        maps.append(_heat(side, *grid, shares))
    return maps


def _heat(side: Side, rows: int, columns: int, shares: Sequence[float]) -> Heat:
    step = max(1, -(-max(rows, columns) // _MAX_SIDE))
    table = [list(shares[row * columns : (row + 1) * columns]) for row in range(rows)]
    coarse = [
        [
            _mean(table, range(top, min(top + step, rows)), range(left, min(left + step, columns)))
            for left in range(0, columns, step)
        ]
        for top in range(0, rows, step)
    ]
    cells = tuple(
        Cell(row, column, round(strength, 2))
        for row, line in enumerate(coarse)
        for column, strength in enumerate(line)
        if strength >= _MIN
    )
    return Heat(side, len(coarse), len(coarse[0]), cells, _words(table))


def _mean(table: Sequence[Sequence[float]], rows: range, columns: range) -> float:
    return sum(table[row][column] for row in rows for column in columns) / (len(rows) * len(columns))


def _words(table: Sequence[Sequence[float]]) -> str:
    """Describe the strongest ninth of the picture and its share of the total."""
    total = sum(map(sum, table))
    if not total:
        return "The map is uniform."
    rows, columns = len(table), len(table[0])
    ninths: dict[tuple[int, int], float] = {}
    for row, line in enumerate(table):
        for column, strength in enumerate(line):
            place = ((2 * row + 1) * 3 // (2 * rows), (2 * column + 1) * 3 // (2 * columns))
            ninths[place] = ninths.get(place, 0.0) + strength
    down, across = max(ninths, key=lambda place: ninths[place])
    share = round(100 * ninths[down, across] / total)
    where = "in the middle" if down == across == 1 else f"at the {_DOWN[down]} {_ACROSS[across]}"
    return f"Strongest {where}: that ninth of the picture has {share} % of the total."


def uncertainty_chart(trace: Trace, injection: Injection) -> Chart:
    """Return the uncertainty after each layer, with the trigger's threshold (tau) and the layer of the re-injection."""
    layers = len(trace.uncertainty)
    rules = [Rule(f"tau {injection.tau:g}", injection.tau)] if injection.trigger == "entropy" else []
    marks = [Mark("re-injected", trace.armed_layer)] if trace.armed_layer is not None else []
    return Chart(
        title="Uncertainty after each layer, 0 (sure) to 1",
        labels=[str(layer) for layer in range(layers)],
        series=[Series("uncertainty", trace.uncertainty)],
        x_name="layer",
        decimals=3,
        low=0.0,
        high=1.0,
        rules=rules,
        marks=marks,
    )


def watched_words(injection: Injection, layers: int) -> str:
    """Describe which layers could trigger the re-injection."""
    if not injection.active:
        return "Re-injection was off for this search."
    if injection.trigger == "fixed":
        return f"Re-injection was set to layer {injection.fixed_layer}, whatever the uncertainty."
    watched = injection.plan(layers).watched
    if not watched:
        return "No layer of this model was monitored."
    if len(watched) == 1:
        return (
            f"Layer {watched[0]} was monitored: an uncertainty above {injection.tau:g} triggers re-injection into "
            "the next layer."
        )
    return (
        f"Layers {watched[0]} to {watched[-1]} were monitored: the first with an uncertainty above "
        f"{injection.tau:g} triggers re-injection into the next layer."
    )
