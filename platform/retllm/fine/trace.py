"""The trace of a score: the model's uncertainty at each layer, and the weight of each part of a picture.

Plain values that convert to JSON and back, small enough to store with every score.
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
    """Numbers quantised to one byte each: number ``j`` is ``offset + scale * codes[j]``.

    The smallest number is exact, the largest is exact except for rounding, and the error of the others is at most half
    of ``scale``.
    """

    codes: bytes
    scale: float
    offset: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Weights:
        """Quantise values.

        Raises:
            ValueError: there are none, or one is not finite.
        """
        if not values or not all(math.isfinite(value) for value in values):
            raise ValueError("weights must be one or more finite numbers")
        lowest, highest = min(values), max(values)
        scale = (highest - lowest) / _STEPS
        codes = bytes(min(_STEPS, round((value - lowest) / scale)) if scale else 0 for value in values)
        return cls(codes, scale, lowest)

    def values(self) -> list[float]:
        """Return the numbers in order."""
        return [self.offset + self.scale * code for code in self.codes]


@dataclass(frozen=True, slots=True)
class Trace:
    """How one pair with a picture was scored. Layers are numbered from 0.

    A trace is of one forward pass: with ``choice`` of the first letter order, with ``verbalized`` of the answer's first
    token.

    Attributes:
        uncertainty: the early reading after each decoder layer, 0 (sure) to 1, at the position of the answer.
        armed_layer: the layer whose feed-forward output was mixed; None if none was.
        plain_score: the mode's score without injection; None if the mode gave none.
        injected_score: the score with the requested settings; None if these inject nothing or the mode gave none.
        map_layer: the layer of ``weights``: the armed one, or if none was armed, the one after the most uncertain
            of the watched layers. None if the model's layers can't be read this way.
        weights: ``phi(<x, z_j>)`` at the answer's position for all visual tokens of the pair, in order, with the keys
            scaled as for the injection (method section 4); None without ``map_layer``.
        shown: whose pictures these are, in the order shown.
        grids: for each picture the (rows, columns) of its visual tokens, row by row; None if they form no plain grid.
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
        """Return the weights over the grid of picture ``at``, row by row; None without a grid or weights."""
        grid = self.grids[at]
        if self.weights is None or grid is None:
            return None
        before = [math.prod(earlier) for earlier in self.grids[:at] if earlier is not None]
        if len(before) < at:
            return None
        start = sum(before)
        return self.weights.values()[start : start + grid[0] * grid[1]]

    def as_json(self) -> dict[str, Any]:
        """Return the trace as JSON values, with the bytes of the weights in base64."""
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
        """Return the trace from the output of :meth:`as_json`.

        Raises:
            KeyError, TypeError, ValueError: ``data`` is not a trace.
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
