"""The feed-forward network of a decoder layer, with the same interface for every model family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from retllm.errors import ModelUnsuited


@dataclass(frozen=True, slots=True, eq=False)
class FeedForward:
    """A dense feed-forward network, with what re-injection needs.

    Attributes:
        module: maps (batch, positions, d) to the same shape; the hooks are registered here.
        activation: its non-linearity, the phi of the method.
        up, gate, down: mean absolute weight of each projection, float32 scalars on the module's device.
    """

    module: nn.Module
    activation: Callable[[Tensor], Tensor]
    up: Tensor
    gate: Tensor
    down: Tensor

    def key_size(self, key_weight: Literal["up", "gate"]) -> Tensor:
        """Return the mean size to which the visual keys are scaled."""
        return self.up if key_weight == "up" else self.gate


def read_feed_forward(layer: nn.Module, number: int) -> FeedForward:
    """Find the feed-forward network of a decoder layer.

    Supports gated networks with separate (``gate_proj``, ``up_proj``) or joined (``gate_up_proj``) projections, and
    plain two-matrix networks (``fc1``, ``fc2``), for which both key sizes are those of the first matrix.

    Raises:
        ModelUnsuited: the layer has none of these (for example, a mixture of experts), or its weights are quantised.
    """
    module = feed_forward_module(layer)
    activation = _first(module, "act_fn", "activation_fn", "act") if module is not None else None
    down = _weight(module, "down_proj", "fc2")
    up, gate = _weight(module, "up_proj", "fc1"), _weight(module, "gate_proj")
    joined = _weight(module, "gate_up_proj")
    if joined is not None:
        gate, up = joined.chunk(2, dim=0)
    elif gate is None:
        gate = up
    # Gemma 4 has a mixture in parallel to a dense network, which then is only a part of the layer's output
    mixture = _first(layer, "experts") is not None
    if module is None or activation is None or down is None or up is None or gate is None or mixture:
        raise ModelUnsuited(
            f"Visual re-injection needs dense feed-forward layers with readable weights; decoder layer {number} of "
            'this model has none. Use a dense model, or set the trigger to "off".',
            layer=number,
        )
    return FeedForward(module, activation, _mean_size(up), _mean_size(gate), _mean_size(down))


def feed_forward_module(layer: nn.Module) -> nn.Module | None:
    """Return the feed-forward network of a decoder layer, of any kind; None if there is none under a known name."""
    return _first(layer, "mlp", "feed_forward", "ffn")


def _first(owner: nn.Module, *names: str) -> nn.Module | None:
    for name in names:
        found = getattr(owner, name, None)
        if isinstance(found, nn.Module):
            return found
    return None


def _weight(owner: nn.Module | None, *names: str) -> Tensor | None:
    if owner is None:
        return None
    for name in names:
        weight = getattr(getattr(owner, name, None), "weight", None)
        if isinstance(weight, Tensor) and weight.is_floating_point() and weight.dim() == 2:
            return weight
    return None


def _mean_size(weight: Tensor) -> Tensor:
    return weight.detach().abs().mean(dtype=torch.float32)
