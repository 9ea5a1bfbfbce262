"""What a score came about by: how sure the model was layer by layer, and which parts of a picture spoke to the answer.

Plain values that go into JSON and back, small enough to be kept with every score.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Side = Literal["query", "candidate"]
Grid = tuple[int, int]

_STEPS = 255


@dataclass(frozen=True, slots=True)
class Weights:
    """Numbers stored in a byte each: number ``j`` is ``offset + scale * codes[j]``.

    The smallest is exact and the largest but for rounding; the others are off by half of ``scale`` at most.
    """

    codes: bytes
    scale: float
    offset: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Weights:
        """Store values.

        Raises:
            ValueError: there are none, or one is not finite.
        """
        if not values or not all(math.isfinite(value) for value in values):
            raise ValueError("weights must be finite numbers, at least one of them")
        lowest, highest = min(values), max(values)
        scale = (highest - lowest) / _STEPS
        codes = bytes(min(_STEPS, round((value - lowest) / scale)) if scale else 0 for value in values)
        return cls(codes, scale, lowest)

    def values(self) -> list[float]:
        """The numbers, in their order."""
        return [self.offset + self.scale * code for code in self.codes]


@dataclass(frozen=True, slots=True)
class Trace:
    """How one pair with a picture was judged; layers count from 0.

    It is of one forward pass: of the first letter order in ``choice``, of the answer's first token in ``verbalized``.

    Attributes:
        uncertainty: the early reading after each decoder layer, 0 (sure) to 1, at the position of the answer.
        armed_layer: the layer whose feed-forward output was mixed; None if none was.
        plain_score: the mode's score with nothing injected; None where the mode gave none.
        injected_score: the score with the settings asked for; None where those inject nothing or the mode gave none.
        map_layer: the layer that ``weights`` is of: the armed one, or where nothing armed the one after the most
            uncertain of the watched layers. None where the model's layers can't be read this way.
        weights: ``phi(<x, z_j>)`` of the answer's position over all visual tokens of the pair, in their order, with
            the keys scaled as for the injection (method section 4); None without ``map_layer``.
        shown: whose pictures these are, in the order shown.
        grids: for each of them its (rows, columns) of visual tokens, row by row; None where they are no plain grid.
    """

    uncertainty: tuple[float, ...]
    armed_layer: int | None
    plain_score: float | None
    injected_score: float | None
    map_layer: int | None
    weights: Weights | None
    shown: tuple[Side, ...]
    grids: tuple[Grid | None, ...]

    def picture_weights(self, at: int) -> list[float] | None:
        """The weights over the grid of picture ``at``, row by row; None where it has no grid or there are none."""
        grid = self.grids[at]
        if self.weights is None or grid is None:
            return None
        before = [rows * columns for rows, columns in (one for one in self.grids[:at] if one is not None)]
        if len(before) < at:
            return None
        begin = sum(before)
        return self.weights.values()[begin : begin + grid[0] * grid[1]]

    def as_json(self) -> dict[str, Any]:
        """All of it as plain JSON values; the weights' bytes in base64."""
        weights = self.weights
        stored = None
        if weights is not None:
            codes = base64.b64encode(weights.codes).decode("ascii")
            stored = {"codes": codes, "scale": weights.scale, "offset": weights.offset}
        plain = {**asdict(self), "weights": stored}
        lists = {name: list(plain[name]) for name in ("uncertainty", "shown")}
        return {**plain, **lists, "grids": [None if grid is None else list(grid) for grid in self.grids]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Trace:
        """The trace that :meth:`as_json` gave.

        Raises:
            KeyError, TypeError, ValueError: it is not one.
        """
        stored = data["weights"]
        weights = None
        if stored is not None:
            weights = Weights(base64.b64decode(stored["codes"], validate=True), stored["scale"], stored["offset"])
        lists = {
            "uncertainty": tuple(data["uncertainty"]),
            "shown": tuple(data["shown"]),
            "grids": tuple(None if grid is None else (grid[0], grid[1]) for grid in data["grids"]),
        }
        return cls(**{**data, **lists, "weights": weights})
