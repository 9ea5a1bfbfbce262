"""The settings of visual re-injection, and the decoder layers they select in a model of a given depth.

Layers are numbered from 0, the first decoder layer: ``start``, ``end``, ``fixed_layer`` and the layer numbers in
scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from retllm.errors import InvalidInput

#: MemVR's range, given for 28 layers (arXiv 2410.03577); scaled to other depths
_REFERENCE_DEPTH = 28
_REFERENCE_START = 5
_REFERENCE_END = 16


@dataclass(frozen=True, slots=True)
class Injection:
    """How visual tokens are mixed back into one feed-forward layer (method section 4; RetLLM section 2.2).

    Attributes:
        alpha: share of the injected part, 0 to 1. With 0 the score equals that of the plain model, bit for bit.
        trigger: ``entropy``: at the layer after the first whose early reading is uncertain; ``fixed``: always at
            ``fixed_layer``; ``off``: never.
        tau: the uncertainty, 0 to 1, above which a layer triggers.
        start, end: layers ``l`` with ``start < l < end`` are read; the injection happens at ``l + 1``. None
            scales MemVR's 5 and 16 of 28 layers to the model's depth.
        fixed_layer: the layer of the ``fixed`` trigger.
        scope: ``all`` positions (RetLLM, MemVR), or the ``suffix`` after the last visual token; then everything before
            it is the same for every question and is computed once.
        scaling: scale the visual tokens to the size of the layer's weights, and the injected part to the size of the
            layer's own output (MemVR); without it, the formula of the paper is used unchanged.
        key_weight: the projection whose mean size the visual keys are scaled to: ``up`` (MemVR) or ``gate`` (RetLLM's
            code).

    Raises:
        InvalidInput: a value is out of range; ``detail["field"]`` names it.
    """

    alpha: float = 0.3
    trigger: Literal["entropy", "fixed", "off"] = "entropy"
    tau: float = 0.75
    start: int | None = None
    end: int | None = None
    fixed_layer: int | None = None
    scope: Literal["all", "suffix"] = "suffix"
    scaling: bool = True
    key_weight: Literal["up", "gate"] = "up"

    def __post_init__(self) -> None:
        self._check_unit("alpha")
        self._check_unit("tau")
        self._check_choice("trigger", ("entropy", "fixed", "off"))
        self._check_choice("scope", ("all", "suffix"))
        self._check_choice("key_weight", ("up", "gate"))
        if not isinstance(self.scaling, bool):
            raise InvalidInput("scaling must be true or false.", field="scaling")
        self._check_layer("start", lowest=-1)
        self._check_layer("end", lowest=0)
        self._check_layer("fixed_layer", lowest=0)
        if self.trigger == "fixed" and self.fixed_layer is None:
            raise InvalidInput(
                'The trigger "fixed" needs fixed_layer, the number of a layer, counted from 0.', field="fixed_layer"
            )
        if self.start is not None and self.end is not None and self.start >= self.end:
            raise InvalidInput(f"start ({self.start}) must be below end ({self.end}).", field="start")

    def _check_unit(self, name: str) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise InvalidInput(f"{name} must be a number from 0 to 1, not {value!r}.", field=name)

    def _check_choice(self, name: str, choices: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value not in choices:
            raise InvalidInput(f"{name} must be one of {', '.join(choices)}, not {value!r}.", field=name)

    def _check_layer(self, name: str, lowest: int) -> None:
        value = getattr(self, name)
        if value is None:
            return
        if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
            raise InvalidInput(f"{name} must be a layer number, {lowest} or more, not {value!r}.", field=name)

    @property
    def active(self) -> bool:
        """Whether these settings can change any score."""
        return self.trigger != "off" and self.alpha > 0

    def as_json(self) -> dict[str, Any]:
        """Return all settings as JSON values, to be stored with the scores."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Injection:
        """Return the settings from the output of :meth:`as_json`; omitted fields have their defaults.

        Raises:
            InvalidInput: a field does not exist, or a value is out of range.
        """
        known = {field.name for field in fields(cls)}
        for name in data:
            if name not in known:
                raise InvalidInput(f"Re-injection has no setting called {name!r}.", field=str(name))
        return cls(**data)

    def plan(self, layers: int) -> LayerPlan:
        """Return the layers that the settings select in a decoder of ``layers`` layers.

        Raises:
            InvalidInput: this decoder does not have a requested layer.
        """
        if not self.active:
            return LayerPlan(watched=range(0), fixed=None)
        if self.trigger == "fixed":
            assert self.fixed_layer is not None
            if self.fixed_layer >= layers:
                raise InvalidInput(
                    f"fixed_layer is {self.fixed_layer}, but this model's layers are 0 to {layers - 1}.",
                    field="fixed_layer",
                )
            return LayerPlan(watched=range(0), fixed=self.fixed_layer)
        start = math.floor(_REFERENCE_START * layers / _REFERENCE_DEPTH) if self.start is None else self.start
        end = math.floor(_REFERENCE_END * layers / _REFERENCE_DEPTH) if self.end is None else self.end
        if end > layers:
            raise InvalidInput(f"end is {end}, but this model has {layers} layers.", field="end")
        # there is no layer to arm after the last one
        return LayerPlan(watched=range(start + 1, min(end, layers - 1)), fixed=None)


NO_INJECTION = Injection(trigger="off")
"""The plain model."""


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """Layers of one decoder: ``watched`` are read for uncertainty, ``fixed`` is always injected."""

    watched: range
    fixed: int | None

    @property
    def injectable(self) -> tuple[int, ...]:
        """The layers whose feed-forward output may change."""
        if self.fixed is not None:
            return (self.fixed,)
        return tuple(layer + 1 for layer in self.watched)
