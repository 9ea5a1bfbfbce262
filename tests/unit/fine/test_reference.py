"""The scores are those of the method's formulas, written out here a second time as plain loops in float64.

Nothing of the package's arithmetic is used: the model is loaded again, the message is put together by hand, visual
tokens come from the model's ``get_image_features``, the early readings from its hidden states, and the feed-forward
network of the injected layer is replaced by one that follows method section 4 token by token.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.unit.fine.families import FAMILIES, usual_inputs
from transformers import AutoModelForImageTextToText, AutoProcessor

from retllm.fine import Content, Injection, Scorer

CAPTION = "a red square is left of a dog"
SETTINGS = {
    "off": Injection(trigger="off"),
    "defaults": Injection(),
    "entropy": Injection(trigger="entropy", tau=0.6, start=0, end=6, alpha=0.4),
    "certain": Injection(trigger="entropy", tau=0.0, start=1, end=4),
    "fixed": Injection(trigger="fixed", fixed_layer=3, alpha=0.3),
    "last layer": Injection(trigger="fixed", fixed_layer=5, alpha=0.3),
    "gate": Injection(trigger="fixed", fixed_layer=2, key_weight="gate", alpha=0.12),
    "suffix": Injection(trigger="fixed", fixed_layer=2, scope="suffix", alpha=0.5),
    "bare formula": Injection(trigger="fixed", fixed_layer=2, scaling=False, alpha=0.2),
    "all of it": Injection(trigger="fixed", fixed_layer=2, alpha=1.0),
}


def picture(seed: int, width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@dataclass
class Expected:
    score: float
    entropy: float
    layer: int | None
    uncertainty: float | None


class Reference:
    """One family's model and processor, and the method on top of them."""

    def __init__(self, folder: Path) -> None:
        self.model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        self.processor: Any = AutoProcessor.from_pretrained(folder)
        self.layers = self.model.get_decoder().layers
        gemma = "gemma" in self.model.config.model_type
        self.phi = gelu_tanh if gemma else silu
        self.cap = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)

    def visual_tokens(self, inputs: dict[str, Any]) -> np.ndarray:
        """All projected visual tokens of the sample, (N, d)."""
        takes = (
            "pixel_values", "image_grid_thw", "image_sizes", "image_position_ids", "batch_num_images",
            "pixel_attention_mask",
        )  # fmt: skip
        given = {name: inputs[name] for name in takes if name in inputs}
        config = self.model.config
        for name in ("vision_feature_layer", "vision_feature_select_strategy"):
            if hasattr(config, name):
                given[name] = getattr(config, name)
        with torch.no_grad():
            pooled = self.model.get_image_features(**given, return_dict=True).pooler_output
        parts = pooled if isinstance(pooled, list | tuple) else [pooled]
        return np.concatenate([part.reshape(-1, part.shape[-1]).double().numpy() for part in parts])

    def early(self, hidden: torch.Tensor) -> float:
        """u of a layer's hidden state at the last position."""
        with torch.no_grad():
            logits = self.model.lm_head(self.model.get_decoder().norm(hidden)).double().numpy()
        if self.cap is not None:
            logits = self.cap * np.tanh(logits / self.cap)
        top = np.sort(logits)[-10:]
        p = np.exp(top - top.max())
        p /= p.sum()
        return float(-(p * np.log(p)).sum() / np.log(10))

    def feed_forward(self, number: int, x: np.ndarray, z: np.ndarray, first: int, settings: Injection) -> np.ndarray:
        """Method section 4 for the tokens x (s, d), of which those from ``first`` on are in scope."""
        mlp = self.layers[number].mlp
        matrix = {name: part.weight.detach().double().numpy() for name, part in mlp.named_children() if "proj" in name}
        if "gate_up_proj" in matrix:
            gate, up = np.split(matrix["gate_up_proj"], 2)
        else:
            gate, up = matrix["gate_proj"], matrix["up_proj"]
        down = matrix["down_proj"]
        plain = np.stack([down @ (self.phi(gate @ token) * (up @ token)) for token in x])
        key, value = z, z
        if settings.scaling:
            weight = up if settings.key_weight == "up" else gate
            key = z * np.abs(weight).mean() / np.abs(z).mean()
            value = z * np.abs(down).mean() / np.abs(z).mean()
        delta = np.zeros_like(x)
        for at in range(first, len(x)):
            for k, v in zip(key, value, strict=True):
                delta[at] += self.phi(np.array([x[at] @ k]))[0] * v
        if settings.scaling:
            delta *= np.abs(plain[first:]).mean() / np.abs(delta[first:]).mean()
        mixed = plain.copy()
        mixed[first:] = (1 - settings.alpha) * plain[first:] + settings.alpha * delta[first:]
        return mixed

    def layer_of(self, inputs: dict[str, Any], settings: Injection) -> tuple[int | None, float | None]:
        """Where the settings inject for this sample, read from the plain model's hidden states."""
        if settings.trigger == "off":
            return None, None
        if settings.trigger == "fixed":
            return settings.fixed_layer, None
        depth = len(self.layers)
        start = 5 * depth // 28 if settings.start is None else settings.start
        end = 16 * depth // 28 if settings.end is None else settings.end
        with torch.no_grad():
            states = self.model(**inputs, output_hidden_states=True).hidden_states
        for layer in range(depth - 1):
            if start < layer < end:
                u = self.early(states[layer + 1][0, -1])
                assert abs(u - settings.tau) > 1e-4, "too close to call; take another tau"
                if u > settings.tau:
                    return layer + 1, u
        return None, None

    def score(self, content: list[dict[str, Any]], settings: Injection) -> Expected:
        inputs = usual_inputs(self.processor, content)
        ids = inputs["input_ids"][0]
        is_visual = (ids == self.model.config.image_token_id).numpy()
        layer, uncertainty = self.layer_of(inputs, settings)
        restore = None
        if layer is not None:
            z = self.visual_tokens(inputs)
            assert len(z) == is_visual.sum()
            first = 0 if settings.scope == "all" else int(np.flatnonzero(is_visual)[-1]) + 1
            mlp = self.layers[layer].mlp

            def replaced(x: torch.Tensor) -> torch.Tensor:
                made = self.feed_forward(layer, x[0].double().numpy(), z, first, settings)
                return torch.from_numpy(made).float()[None]

            restore, mlp.forward = mlp.forward, replaced
        try:
            with torch.no_grad():
                logits = self.model(**inputs).logits[0, -1].double().numpy()
        finally:
            if restore is not None:
                mlp.forward = restore
        p = np.exp(logits - logits.max())
        p /= p.sum()
        vocabulary = self.processor.tokenizer.get_vocab()
        labels = [vocabulary[word] for word in ("True", "ĠTrue") if word in vocabulary]
        return Expected(float(p[labels].sum()), float(-(p * np.log(p)).sum()), layer, uncertainty)


@pytest.fixture(scope="module")
def reference_of(model_folder: Callable[[str], Path]) -> Callable[[str], Reference]:
    made: dict[str, Reference] = {}

    def reference(family: str) -> Reference:
        if family not in made:
            made[family] = Reference(model_folder(family))
        return made[family]

    return reference


def agree(found: Any, expected: Expected) -> None:
    assert found.injected_layer == expected.layer
    assert found.score == pytest.approx(expected.score, rel=2e-3)
    assert found.entropy == pytest.approx(expected.entropy, rel=2e-3)
    if expected.uncertainty is None:
        assert found.uncertainty is None
    else:
        assert found.uncertainty == pytest.approx(expected.uncertainty, abs=1e-4)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
@pytest.mark.parametrize("family", FAMILIES)
def test_text_against_pictures(
    family: str,
    settings: Injection,
    scorer_of: Callable[[str], Scorer],
    reference_of: Callable[[str], Reference],
) -> None:
    pictures = [picture(seed, 16 + 6 * seed, 30 - 4 * seed) for seed in range(4)]
    scores = scorer_of(family).score(Content(text=CAPTION), [Content(image=image) for image in pictures], settings)
    question = f"Does the image match the caption: <{CAPTION}>? Please directly output True or False"
    for found, image in zip(scores, pictures, strict=True):
        content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
        agree(found, reference_of(family).score(content, settings))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("settings", [SETTINGS["entropy"], SETTINGS["suffix"]], ids=["entropy", "suffix"])
def test_a_sample_of_two_pictures_is_injected_with_the_tokens_of_both(
    family: str,
    settings: Injection,
    scorer_of: Callable[[str], Scorer],
    reference_of: Callable[[str], Reference],
) -> None:
    query, candidates = picture(10, 20, 18), [picture(11, 26, 14), picture(12, 16, 32)]
    scores = scorer_of(family).score(Content(image=query), [Content(image=image) for image in candidates], settings)
    for found, image in zip(scores, candidates, strict=True):
        content = [
            {"type": "text", "text": "Query image:"},
            {"type": "image", "image": query},
            {"type": "text", "text": "Candidate image:"},
            {"type": "image", "image": image},
            {
                "type": "text",
                "text": "Does the candidate image show the same thing as the query image? "
                "Please directly output True or False",
            },
        ]
        agree(found, reference_of(family).score(content, settings))


def test_the_entropy_settings_tell_samples_apart(scorer_of: Callable[[str], Scorer]) -> None:
    """Else the comparisons above would prove little about arming each sample for itself."""
    pictures = [picture(seed, 16 + 6 * seed, 30 - 4 * seed) for seed in range(4)]
    layers = {
        score.injected_layer
        for family in FAMILIES
        for score in scorer_of(family).score(
            Content(text=CAPTION), [Content(image=image) for image in pictures], SETTINGS["entropy"]
        )
    }
    assert len(layers) >= 3
