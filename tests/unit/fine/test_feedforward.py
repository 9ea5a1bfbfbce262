"""The feed-forward network of a layer is found under all known names; layers without a single dense one are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.fine.families.gemma import gemma4_config
from torch import nn

from retllm.errors import ModelUnsuited
from retllm.fine import Scorer
from retllm.fine.feedforward import read_feed_forward


def mean_absolute(weight: Any) -> float:
    return float(np.abs(weight.detach().double().numpy()).mean())


def test_the_network_of_every_layer_is_found_in_every_family(scorer: Scorer) -> None:
    """Its sizes are the mean absolute weights of its matrices, and its module is the one that the layer runs."""
    layers = scorer._loaded.decoder.layers
    for number, layer in enumerate(layers):
        found = read_feed_forward(layer, number)
        matrices = {name: part.weight for name, part in found.module.named_children() if "proj" in name}
        if "gate_up_proj" in matrices:
            matrices["gate_proj"], matrices["up_proj"] = matrices["gate_up_proj"].chunk(2)
        assert found.up.item() == pytest.approx(mean_absolute(matrices["up_proj"]), rel=1e-5)
        assert found.gate.item() == pytest.approx(mean_absolute(matrices["gate_proj"]), rel=1e-5)
        assert found.down.item() == pytest.approx(mean_absolute(matrices["down_proj"]), rel=1e-5)
        assert found.key_size("up") is found.up
        assert found.key_size("gate") is found.gate
        x = torch.linspace(-1, 1, 2 * 3 * 32).reshape(2, 3, 32)
        by_hand = found.activation(x @ matrices["gate_proj"].T) * (x @ matrices["up_proj"].T) @ matrices["down_proj"].T
        torch.testing.assert_close(found.module(x), by_hand, rtol=1e-4, atol=1e-4)


def module_of(**parts: nn.Module) -> nn.Module:
    layer = nn.Module()
    for name, part in parts.items():
        layer.add_module(name, part)
    return layer


def two_matrices() -> nn.Module:
    return module_of(fc1=nn.Linear(4, 8), act=nn.GELU(), fc2=nn.Linear(8, 4))


def test_a_network_of_two_matrices_has_equal_up_and_gate_sizes() -> None:
    network = two_matrices()
    found = read_feed_forward(module_of(ffn=network), 0)
    assert found.up.item() == found.gate.item() == pytest.approx(mean_absolute(network.fc1.weight), rel=1e-5)
    assert found.down.item() == pytest.approx(mean_absolute(network.fc2.weight), rel=1e-5)


def quantised() -> nn.Module:
    network = two_matrices()
    network.fc2.weight = nn.Parameter(torch.ones(4, 8, dtype=torch.int8), requires_grad=False)
    return network


@pytest.mark.parametrize(
    "layer",
    [
        module_of(attention=nn.Linear(4, 4)),
        module_of(mlp=module_of(router=nn.Linear(4, 2), act=nn.SiLU())),
        module_of(mlp=module_of(fc1=nn.Linear(4, 8), fc2=nn.Linear(8, 4))),
        module_of(mlp=quantised()),
        module_of(mlp=two_matrices(), experts=two_matrices()),
    ],
    ids=["no network", "experts only", "no activation", "quantised", "experts beside a network"],
)
def test_a_layer_that_cannot_be_injected_into_is_refused_with_its_number(layer: nn.Module) -> None:
    with pytest.raises(ModelUnsuited, match="decoder layer 7") as caught:
        read_feed_forward(layer, 7)
    assert caught.value.detail["layer"] == 7


def test_gemma_4_is_refused_only_if_it_has_experts() -> None:
    from transformers import Gemma4ForConditionalGeneration

    mixture = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 8}
    with torch.device("meta"):
        configs = [gemma4_config(400, {"image_token_id": 300}, **more) for more in ({}, mixture)]
        dense, mixed = map(Gemma4ForConditionalGeneration, configs)
    assert read_feed_forward(dense.get_decoder().layers[0], 0).down.shape == ()
    with pytest.raises(ModelUnsuited, match="dense"):
        read_feed_forward(mixed.get_decoder().layers[0], 0)
