"""Speed of the fine stage compared with the method of the published code, on the same weights and pairs, in one run.

Variants, each on k candidates of one query:

- ``published_shape``: pair by pair, with the output projection over all positions after every layer, like the code
  published with RetLLM (method, section 4).
- ``pair_by_pair``: pair by pair, with the output projection at the last position only, without caches.
- ``cross_encoder``: the cross-encoder of sentence-transformers (:mod:`retllm.bench.rivals`), if it is installed.
- ``forward``: the limit: the bare forward pass of all pairs, their inputs ready on the device.
- ``cold``: the platform's scorer with empty caches.
- ``warm``: the same scorer with another query (text to image) or other texts (image to text) on pictures that are in
  its caches.

Each round runs all variants, so that other load on the machine affects all of them; medians are compared. Beside them
stand the device's own speed with large matrices, and what a pair costs the host before the model sees it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from retllm.bench.device_speed import host_milliseconds, matrix_flops, operations
from retllm.bench.rivals import CrossEncoder, forward_alone
from retllm.fine import Content, Injection, Scorer

WAYS = ("published_shape", "pair_by_pair", "cross_encoder", "forward", "cold", "warm")
DIRECTIONS = ("t2i", "i2t")
_THINGS = (
    "dog",
    "boat",
    "red house",
    "street at night",
    "child with a kite",
    "field of wheat",
    "wooden table",
    "train",
)
_PLACES = ("on a beach", "in the snow", "beside a river", "in front of a wall", "under a tree", "near a large window")


def captions(count: int, seed: int) -> list[str]:
    """Return distinct captions of realistic length."""
    rng = np.random.default_rng(seed)
    texts: dict[str, None] = {}
    while len(texts) < count:
        first, second = rng.choice(_THINGS, 2, replace=False)
        texts[f"A {first} and a {second} {rng.choice(_PLACES)}, seen from {rng.integers(2, 90)} metres."] = None
    return list(texts)


def pictures(count: int, side: int, seed: int) -> list[Image.Image]:
    """Return square pictures of random noise."""
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(count)]


@dataclass(frozen=True, slots=True)
class Speed:
    """The result of one run.

    Attributes:
        k: candidates of a query.
        device: device of the scorer.
        tokens: tokens of one pair, including visual tokens, by direction.
        pairs_per_second: median by direction and variant.
        flops: floating-point operations of the bare forward pass of one pair, by direction.
        matrix_flops: operations per second of the device with large matrices in the model's precision.
        host_ms: milliseconds of one core that preparing a pair takes, by direction, with no picture prepared before.
    """

    k: int
    device: str
    tokens: dict[str, int]
    pairs_per_second: dict[str, dict[str, float]]
    flops: dict[str, float]
    matrix_flops: float
    host_ms: dict[str, float]

    def share(self, direction: str, way: str) -> float:
        """Return the share of the device's speed that a variant reaches, counting the operations of the bare pass."""
        return self.pairs_per_second[direction][way] * self.flops[direction] / self.matrix_flops

    def as_json(self, parameters: int) -> dict[str, Any]:
        """Return the result as a JSON object."""
        rounded = {
            direction: {way: round(speed, 3) for way, speed in ways.items()}
            for direction, ways in self.pairs_per_second.items()
        }
        return {
            "parameters": parameters,
            "k": self.k,
            "device": self.device,
            "tokens_per_pair": self.tokens,
            "flops_per_pair": self.flops,
            "matrix_flops": self.matrix_flops,
            "host_ms_per_pair": {direction: round(cost, 2) for direction, cost in self.host_ms.items()},
            "share_of_matrix_speed": {
                direction: {way: round(self.share(direction, way), 4) for way in ways}
                for direction, ways in self.pairs_per_second.items()
            },
            **rounded,
        }


def measure_fine(
    scorer: Scorer,
    k: int,
    side: int,
    rounds: int,
    injection: Injection,
    rival: CrossEncoder | None = None,
    done: Callable[[], None] = lambda: None,
) -> Speed:
    """Measure all variants in both directions.

    Args:
        scorer: the model, with enough cache for the prefixes of k pictures.
        k: candidates of a query.
        side: edge of the pictures in pixels.
        rounds: number of measured rounds; one more is run first as a warm-up.
        injection: settings of re-injection, for ``pair_by_pair``, ``cold`` and ``warm``.
        rival: the cross-encoder of the same model; None leaves it out.
        done: called after each timed call.
    """
    ways = [way for way in WAYS if way != "cross_encoder" or rival is not None]
    seconds: dict[tuple[str, str], list[float]] = {(direction, way): [] for direction in DIRECTIONS for way in ways}
    tokens: dict[str, int] = {}
    host: dict[str, list[float]] = {direction: [] for direction in DIRECTIONS}
    for turn in range(rounds + 1):
        for direction in DIRECTIONS:
            inputs = _Inputs(direction, k, side, turn)
            for way in ways:
                took, tokens[direction] = _timed(scorer, way, inputs, injection, rival)
                if turn:
                    seconds[direction, way].append(took)
                done()
            host[direction].append(host_milliseconds(scorer, inputs.query, inputs.candidates) / k)
    speeds = {
        direction: {way: k / statistics.median(seconds[direction, way]) for way in ways} for direction in DIRECTIONS
    }
    return Speed(
        k,
        scorer.info.device,
        tokens,
        speeds,
        flops={direction: _operations(scorer, _Inputs(direction, k, side, 0)) / k for direction in DIRECTIONS},
        matrix_flops=matrix_flops(scorer.loaded.module.device, scorer.loaded.module.dtype),
        host_ms={direction: statistics.median(costs) for direction, costs in host.items()},
    )


def _operations(scorer: Scorer, inputs: _Inputs) -> int:
    return operations(forward_alone(scorer, inputs.query, inputs.candidates))


class _Inputs:
    """Queries and candidates of one round, with new pictures, so that caches of earlier rounds do not help."""

    def __init__(self, direction: str, k: int, side: int, turn: int) -> None:
        texts = captions(k + 2, 1000 + turn)
        if direction == "t2i":
            self.candidates = [Content(image=picture) for picture in pictures(k, side, turn)]
            self.query, self.other = Content(text=texts[0]), Content(text=texts[1])
            self.others = self.candidates
        else:
            self.query = self.other = Content(image=pictures(1, side, turn)[0])
            self.candidates = [Content(text=text) for text in texts[:k]]
            self.others = [Content(text=text) for text in captions(k, 2000 + turn)]


def _timed(
    scorer: Scorer, way: str, inputs: _Inputs, injection: Injection, rival: CrossEncoder | None
) -> tuple[float, int]:
    """Run one variant; return its duration in seconds and the tokens of its last pair."""
    if way != "warm":
        scorer.forget()
    query, pool = (inputs.other, inputs.others) if way == "warm" else (inputs.query, inputs.candidates)
    forward = forward_alone(scorer, query, pool) if way == "forward" else None
    _wait(scorer)
    started = time.perf_counter()
    tokens = 0
    if forward is not None:
        forward()
    elif way == "cross_encoder" and rival is not None:
        rival.scored(query, pool)
    elif way == "published_shape":
        published_shape(scorer, query, pool)
    elif way == "pair_by_pair":
        with scorer.bare():
            for candidate in pool:
                tokens = scorer.score(query, [candidate], injection)[0].tokens
    else:
        tokens = scorer.score(query, pool, injection)[-1].tokens
    _wait(scorer)
    return time.perf_counter() - started, tokens


def _wait(scorer: Scorer) -> None:
    if scorer.info.device.startswith("cuda"):
        torch.cuda.synchronize()


def published_shape(scorer: Scorer, query: Content, candidates: Sequence[Content]) -> None:
    """Score pair by pair, applying the output projection to every layer at every position."""
    loaded = scorer.loaded
    head, norm = loaded.decoder.head, loaded.module.get_decoder().norm

    def read(_: Any, __: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        torch.softmax(head(norm(hidden))[:, -1].float().topk(10).values, dim=-1).cpu()

    handles = [layer.register_forward_hook(read) for layer in loaded.decoder.layers]
    try:
        for index, candidate in enumerate(candidates):
            with loaded.preparer.pictures_once(), torch.inference_mode():
                pair = loaded.preparer.pair(index, scorer.prompts.message("true_false", query, candidate))
                inputs = {
                    key: value.to(loaded.module.device, loaded.module.dtype if value.is_floating_point() else None)
                    for key, value in {**pair.tokens, **pair.vision}.items()
                }
                loaded.module(**inputs).logits[:, -1].float().softmax(-1).cpu()
    finally:
        for handle in handles:
            handle.remove()
