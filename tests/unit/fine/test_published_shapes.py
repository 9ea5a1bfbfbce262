"""All hooks work with the shapes of published models of 7 to 9 billion parameters.

The models are built from their published ``config.json`` on the meta device, which has shapes but no values. Parameter
counts are those on the model hub for the published weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    LlavaConfig,
    LlavaOnevisionConfig,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    Qwen3VLConfig,
)

from retllm.fine import Injection, ModelSource
from retllm.fine.batching import Layout
from retllm.fine.feedforward import FeedForward
from retllm.fine.hooks import Reinjection, hooked
from retllm.fine.model import LoadedModel, _decoder, _image_token
from retllm.fine.prompts import load_prompts

BATCH, LENGTH, VISUAL = 2, 20, 6


@dataclass(frozen=True)
class Published:
    """The expected values of a published model.

    ``billions`` of parameters; ``layers`` of ``width`` with feed-forward networks of ``inner``; ``watched`` layers by
    method section 4: 5/28 to 16/28 of the depth, without both ends; ``shares``: whether the model takes projected
    visual tokens as input.
    """

    config: Callable[[], Any]
    billions: float
    layers: int
    width: int
    inner: int
    vocabulary: int
    image_token: int
    watched: range
    shares: bool


QWEN2_7B = {
    "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "max_position_embeddings": 32768,
}  # fmt: skip
QWEN_IDS = {
    "image_token_id": 151655, "video_token_id": 151656, "vision_start_token_id": 151652, "vision_end_token_id": 151653,
}  # fmt: skip


def qwen2_5_vl_7b() -> Any:
    """huggingface.co/Qwen/Qwen2.5-VL-7B-Instruct, config.json."""
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    return Qwen2_5_VLConfig(
        text_config={**QWEN2_7B, "vocab_size": 152064, "max_position_embeddings": 128000, "rope_parameters": rope},
        vision_config={
            "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "patch_size": 14,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112, "out_hidden_size": 3584,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
        **QWEN_IDS,
    )  # fmt: skip


def qwen2_vl_7b() -> Any:
    """huggingface.co/Qwen/Qwen2-VL-7B-Instruct, config.json."""
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    return Qwen2VLConfig(
        text_config={**QWEN2_7B, "vocab_size": 152064, "rope_parameters": rope},
        vision_config={
            "depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "num_heads": 16, "patch_size": 14, "hidden_size": 3584,
            "spatial_merge_size": 2, "temporal_patch_size": 2,
        },
        **QWEN_IDS,
    )  # fmt: skip


def qwen3_vl_8b() -> Any:
    """huggingface.co/Qwen/Qwen3-VL-8B-Instruct, config.json."""
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
    return Qwen3VLConfig(
        text_config={
            "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
            "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 262144,
            "rope_parameters": rope,
        },
        vision_config={
            "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "patch_size": 16,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 2304, "out_hidden_size": 4096,
            "deepstack_visual_indexes": [8, 16, 24],
        },
        **QWEN_IDS,
    )  # fmt: skip


def llava_1_5_7b() -> Any:
    """huggingface.co/llava-hf/llava-1.5-7b-hf, config.json; its text model is lmsys/vicuna-7b-v1.5."""
    return LlavaConfig(
        text_config={
            "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32, "rms_norm_eps": 1e-5, "vocab_size": 32064, "max_position_embeddings": 4096,
        },
        vision_config={
            "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "image_size": 336,
            "num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 14, "projection_dim": 768,
        },
        image_token_index=32000,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )  # fmt: skip


def llava_onevision_7b() -> Any:
    """huggingface.co/llava-hf/llava-onevision-qwen2-7b-ov-hf.

    As written by the conversion script of transformers: the text model is Qwen/Qwen2-7B-Instruct, whose vocabulary of
    152064 grows by two and is padded to a multiple of 64; the last layer of the vision tower is dropped.
    """
    return LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **QWEN2_7B, "vocab_size": 152128},
        vision_config={
            "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "image_size": 384,
            "num_attention_heads": 16, "num_hidden_layers": 26, "patch_size": 14, "vision_use_head": False,
        },
        image_token_index=151646,
        video_token_index=151647,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )  # fmt: skip


MODELS = {
    "Qwen2.5-VL-7B": Published(qwen2_5_vl_7b, 8.29, 28, 3584, 18944, 152064, 151655, range(6, 16), True),
    "Qwen2-VL-7B": Published(qwen2_vl_7b, 8.29, 28, 3584, 18944, 152064, 151655, range(6, 16), True),
    "Qwen3-VL-8B": Published(qwen3_vl_8b, 8.77, 36, 4096, 12288, 151936, 151655, range(7, 20), True),
    "LLaVA-1.5-7B": Published(llava_1_5_7b, 7.06, 32, 4096, 11008, 32064, 32000, range(6, 18), False),
    "LLaVA-OneVision-7B": Published(llava_onevision_7b, 8.03, 28, 3584, 18944, 152128, 151646, range(6, 16), False),
}

SETTINGS = {
    "defaults": Injection(),
    "suffix": Injection(scope="suffix", key_weight="gate"),
    "bare formula": Injection(scaling=False),
    "fixed": Injection(trigger="fixed", fixed_layer=14),
}


@cache
def build(name: str) -> LoadedModel:
    """Build the model without weights, with the parts that scoring uses."""
    with torch.device("meta"):
        module = AutoModelForImageTextToText.from_config(MODELS[name].config(), dtype=torch.bfloat16).eval()
    return LoadedModel(
        module=module,
        preparer=None,  # type: ignore[arg-type]  # the tokenizer is not available here
        decoder=_decoder(name, module),
        image_token=_image_token(name, module.config),
        source=ModelSource(name, "nowhere", None, None, ""),
        revision="",
        prompts=load_prompts(),
    )


def on_meta(*shape: int, dtype: torch.dtype = torch.long) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def layout() -> Layout:
    marks = on_meta(BATCH, LENGTH, dtype=torch.bool)
    return Layout(on_meta(BATCH), marks, marks, on_meta(BATCH, VISUAL), on_meta(BATCH, VISUAL, dtype=torch.bool))


def mask() -> Tensor:
    """Return a complete attention mask; transformers would read values to make one."""
    return on_meta(BATCH, 1, LENGTH, LENGTH, dtype=torch.bool)


@pytest.mark.parametrize("name", MODELS)
def test_the_configuration_has_the_published_number_of_parameters(name: str) -> None:
    count = sum(parameter.numel() for parameter in build(name).module.parameters())
    assert round(count / 1e9, 2) == MODELS[name].billions


@pytest.mark.parametrize("name", MODELS)
def test_decoder_head_and_image_token_are_found(name: str) -> None:
    published, loaded = MODELS[name], build(name)
    decoder = loaded.decoder
    assert len(decoder.layers) == published.layers
    assert decoder.head.weight.shape == (published.vocabulary, published.width)
    assert decoder.read(on_meta(BATCH, 1, published.width, dtype=torch.bfloat16)).shape == (BATCH, published.vocabulary)
    assert loaded.image_token == published.image_token < published.vocabulary
    assert loaded.shares_pictures == published.shares


@pytest.mark.parametrize("name", MODELS)
def test_the_feed_forward_network_of_every_layer_is_found(name: str) -> None:
    published, loaded = MODELS[name], build(name)
    plan = Injection().plan(published.layers)
    assert plan.watched == published.watched
    assert plan.injectable == tuple(layer + 1 for layer in published.watched)
    for number in range(published.layers):
        found = loaded.feed_forward(number)
        assert found.module is loaded.decoder.layers[number].mlp
        x = on_meta(BATCH, LENGTH, published.width, dtype=torch.bfloat16)
        assert found.module(x).shape == x.shape
        assert found.module.up_proj.weight.shape == (published.inner, published.width)
        assert found.module.gate_proj.weight.shape == (published.inner, published.width)
        assert found.module.down_proj.weight.shape == (published.width, published.inner)
        for size in (found.up, found.gate, found.down):
            assert (size.shape, size.dtype) == ((), torch.float32)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
@pytest.mark.parametrize("name", MODELS)
def test_a_forward_pass_reads_and_mixes_the_planned_layers(
    name: str, settings: Injection, monkeypatch: pytest.MonkeyPatch
) -> None:
    published, loaded = MODELS[name], build(name)
    plan = settings.plan(published.layers)
    networks = {number: loaded.feed_forward(number) for number in plan.injectable}
    read: list[int] = []
    mixed: list[int] = []
    observe, mix = Reinjection.observe, Reinjection.mix

    def observed(self: Reinjection, layer: int, logits: Tensor) -> None:
        assert logits.shape == (BATCH, published.vocabulary)
        read.append(layer)
        observe(self, layer, logits)

    def mixed_with(self: Reinjection, layer: int, network: FeedForward, x: Tensor, plain: Tensor) -> Tensor:
        made = mix(self, layer, network, x, plain)
        assert network is networks[layer]
        assert made.shape == plain.shape == x.shape == (BATCH, LENGTH, published.width)
        assert made.dtype == plain.dtype == torch.bfloat16
        mixed.append(layer)
        return made

    monkeypatch.setattr(Reinjection, "observe", observed)
    monkeypatch.setattr(Reinjection, "mix", mixed_with)
    state = Reinjection(settings, plan, layout())
    embeddings = on_meta(BATCH, LENGTH, published.width, dtype=torch.bfloat16)
    with torch.inference_mode(), hooked(loaded.decoder, layout(), state, plan, networks):
        logits = loaded.module(inputs_embeds=embeddings, attention_mask=mask(), use_cache=False).logits
    assert (logits.shape, logits.dtype) == ((BATCH, 1, published.vocabulary), torch.float32)
    assert read == list(plan.watched)
    assert mixed == list(plan.injectable)
    assert state.armed.shape == state.uncertainty.shape == (BATCH,)


def projection_width(name: str) -> int:
    """Return the width of the visual tokens, from the last layer of the projection."""
    module = build(name).module.model
    owner = module.visual.merger if hasattr(module, "visual") else module.multi_modal_projector
    *_, last = (part for part in owner.modules() if isinstance(part, torch.nn.Linear))
    return int(last.out_features)


@pytest.mark.parametrize("name", MODELS)
def test_visual_tokens_have_the_width_of_the_decoder(name: str) -> None:
    assert projection_width(name) == MODELS[name].width


def test_llava_makes_576_visual_tokens_of_a_picture() -> None:
    """336 / 14 = 24 patches per side, 576 in total."""
    module = build("LLaVA-1.5-7B").module
    pixels = on_meta(1, 3, 336, 336, dtype=torch.bfloat16)
    made = module.get_image_features(pixel_values=pixels, return_dict=True).pooler_output
    assert [tuple(one.shape) for one in made] == [(576, 4096)]
