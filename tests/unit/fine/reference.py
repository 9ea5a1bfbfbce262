"""A reference implementation of the method's formulas: plain loops in float64, with models loaded by transformers.

It uses none of the package's arithmetic: visual tokens come from the model's ``get_image_features``, the early
readings from its hidden states, and the feed-forward network of the injected layer is replaced by one that computes
method section 4 token by token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from tests.unit.fine.families import processor_inputs
from transformers import AutoModelForImageTextToText, AutoProcessor

from retllm.fine import Injection

Result = TypeVar("Result")


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


@dataclass
class Run:
    """One forward pass: logits of the last position, the injected layer and the reading that armed it, and the hidden
    states and feed-forward inputs of every layer at the last position."""

    logits: np.ndarray
    layer: int | None
    uncertainty: float | None
    hidden: list[torch.Tensor]
    x: list[np.ndarray]


def cache_key(value: Any) -> Any:
    """Return a hashable key of the content of an argument."""
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, Image.Image):
        return value.size, value.tobytes()
    if isinstance(value, Mapping):
        return tuple((name, cache_key(one)) for name, one in value.items())
    if isinstance(value, list | tuple):
        return tuple(cache_key(one) for one in value)
    return repr(value)


def cached_result(method: Callable[..., Result]) -> Callable[..., Result]:
    """Cache the results: tests that differ only in their settings share the forward passes of the plain model."""

    @wraps(method)
    def cached(self: Reference, *arguments: Any) -> Result:
        results = self.results.setdefault(method.__name__, {})
        key = cache_key(arguments)
        if key not in results:
            results[key] = method(self, *arguments)
        found: Result = results[key]
        return found

    return cached


class Reference:
    """The method, computed with one family's model and processor."""

    def __init__(self, folder: Path) -> None:
        self.results: dict[str, dict[Any, Any]] = {}
        self.model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        self.processor: Any = AutoProcessor.from_pretrained(folder)
        self.layers = self.model.get_decoder().layers
        gemma = "gemma" in self.model.config.model_type
        self.phi = gelu_tanh if gemma else silu
        self.cap = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)

    @cached_result
    def visual_tokens(self, inputs: dict[str, Any]) -> np.ndarray:
        """Return all projected visual tokens of the sample, (N, d)."""
        accepted = (
            "pixel_values", "image_grid_thw", "image_sizes", "image_position_ids", "batch_num_images",
            "pixel_attention_mask",
        )  # fmt: skip
        given = {name: inputs[name] for name in accepted if name in inputs}
        config = self.model.config
        for name in ("vision_feature_layer", "vision_feature_select_strategy"):
            if hasattr(config, name):
                given[name] = getattr(config, name)
        with torch.no_grad():
            pooled = self.model.get_image_features(**given, return_dict=True).pooler_output
        parts = pooled if isinstance(pooled, list | tuple) else [pooled]
        return np.concatenate([part.reshape(-1, part.shape[-1]).double().numpy() for part in parts])

    def early(self, hidden: torch.Tensor) -> float:
        """Return u of a layer's hidden state at the last position."""
        with torch.no_grad():
            logits = self.model.lm_head(self.model.get_decoder().norm(hidden)).double().numpy()
        if self.cap is not None:
            logits = self.cap * np.tanh(logits / self.cap)
        top = np.sort(logits)[-10:]
        p = np.exp(top - top.max())
        p /= p.sum()
        return float(-(p * np.log(p)).sum() / np.log(10))

    @cached_result
    def matrices(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the gate, up and down projections of a layer."""
        mlp = self.layers[number].mlp
        matrix = {name: part.weight.detach().double().numpy() for name, part in mlp.named_children() if "proj" in name}
        if "gate_up_proj" in matrix:
            gate, up = np.split(matrix["gate_up_proj"], 2)
        else:
            gate, up = matrix["gate_proj"], matrix["up_proj"]
        return gate, up, matrix["down_proj"]

    def keys(self, number: int, z: np.ndarray, settings: Injection) -> np.ndarray:
        if not settings.scaling:
            return z
        gate, up, _ = self.matrices(number)
        weight = up if settings.key_weight == "up" else gate
        return z * np.abs(weight).mean() / np.abs(z).mean()

    def feed_forward(self, number: int, x: np.ndarray, z: np.ndarray, first: int, settings: Injection) -> np.ndarray:
        """Compute method section 4 for the tokens x (s, d); those from ``first`` on are in scope."""
        gate, up, down = self.matrices(number)
        plain = np.stack([down @ (self.phi(gate @ token) * (up @ token)) for token in x])
        key = self.keys(number, z, settings)
        value = z * np.abs(down).mean() / np.abs(z).mean() if settings.scaling else z
        delta = np.zeros_like(x)
        for at in range(first, len(x)):
            for k, v in zip(key, value, strict=True):
                delta[at] += self.phi(np.array([x[at] @ k]))[0] * v
        if settings.scaling:
            delta *= np.abs(plain[first:]).mean() / np.abs(delta[first:]).mean()
        mixed = plain.copy()
        mixed[first:] = (1 - settings.alpha) * plain[first:] + settings.alpha * delta[first:]
        return mixed

    @cached_result
    def hidden_states(self, inputs: dict[str, Any]) -> tuple[torch.Tensor, ...]:
        """Return the hidden states of the plain model: the embeddings, then those after each layer."""
        with torch.no_grad():
            states: tuple[torch.Tensor, ...] = self.model(**inputs, output_hidden_states=True).hidden_states
        return states

    def layer_of(self, inputs: dict[str, Any], settings: Injection) -> tuple[int | None, float | None]:
        """Return the layer that the settings inject into and u, from the hidden states of the plain model."""
        if settings.trigger == "off":
            return None, None
        if settings.trigger == "fixed":
            return settings.fixed_layer, None
        depth = len(self.layers)
        start = 5 * depth // 28 if settings.start is None else settings.start
        end = 16 * depth // 28 if settings.end is None else settings.end
        states = self.hidden_states(inputs)
        for layer in range(depth - 1):
            if start < layer < end:
                u = self.early(states[layer + 1][0, -1])
                assert abs(u - settings.tau) > 1e-4, "too close to tau; choose another tau"
                if u > settings.tau:
                    return layer + 1, u
        return None, None

    @contextmanager
    def injected(self, inputs: dict[str, Any], settings: Injection) -> Iterator[tuple[int | None, float | None]]:
        """Inject into the model's passes over ``inputs`` as the settings say; yield the layer and u."""
        is_visual = (inputs["input_ids"][0] == self.model.config.image_token_id).numpy()
        layer, uncertainty = self.layer_of(inputs, settings) if is_visual.any() else (None, None)
        if layer is None:
            yield layer, uncertainty
            return
        z = self.visual_tokens(inputs)
        assert len(z) == is_visual.sum()
        first = 0 if settings.scope == "all" else int(np.flatnonzero(is_visual)[-1]) + 1
        mlp = self.layers[layer].mlp

        def replaced(x: torch.Tensor) -> torch.Tensor:
            made = self.feed_forward(layer, x[0].double().numpy(), z, first, settings)
            return torch.from_numpy(made).float()[None]

        restore, mlp.forward = mlp.forward, replaced
        try:
            yield layer, uncertainty
        finally:
            mlp.forward = restore

    def inputs(self, content: list[dict[str, Any]], answer: Sequence[int] = ()) -> dict[str, Any]:
        """Return the model's inputs for a user's message, followed by the tokens of the answer so far."""
        inputs = processor_inputs(self.processor, content)
        if answer:
            more = {"input_ids": torch.tensor([list(answer)]), "attention_mask": torch.ones(1, len(answer)).long()}
            zeros = torch.zeros(1, len(answer)).long()
            for name in ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"):
                if name in inputs:
                    inputs[name] = torch.cat([inputs[name], more.get(name, zeros)], dim=1)
        return inputs

    @cached_result
    def run(self, content: list[dict[str, Any]], settings: Injection, answer: Sequence[int] = ()) -> Run:
        inputs = self.inputs(content, answer)
        hidden: list[torch.Tensor] = []
        x: list[np.ndarray] = []

        def keep_hidden(_: Any, __: Any, output: Any) -> None:
            hidden.append((output[0] if isinstance(output, tuple) else output)[0, -1])

        with self.injected(inputs, settings) as (layer, uncertainty), torch.no_grad():
            handles = [one.register_forward_hook(keep_hidden) for one in self.layers]
            handles += [
                one.mlp.register_forward_pre_hook(lambda _, args: x.append(args[0][0, -1].double().numpy()))
                for one in self.layers
            ]
            try:
                logits = self.model(**inputs).logits[0, -1].double().numpy()
            finally:
                for handle in handles:
                    handle.remove()
        return Run(logits, layer, uncertainty, hidden, x)

    def ids(self, *words: str) -> list[int]:
        """Return the token ids of those words that are a single token."""
        vocabulary = self.processor.tokenizer.get_vocab()
        return [vocabulary[word] for word in words if word in vocabulary]

    def score(self, content: list[dict[str, Any]], settings: Injection) -> Expected:
        run = self.run(content, settings)
        p = np.exp(run.logits - run.logits.max())
        p /= p.sum()
        labels = self.ids("True", "ĠTrue")
        return Expected(float(p[labels].sum()), float(-(p * np.log(p)).sum()), run.layer, run.uncertainty)
