"""Speed of the fine stage: the published code's shape of work beside ours, on the same weights and pairs, in one run.

What is compared, each on k candidates of one query:

- ``published_shape``: pair by pair, with the output projection over all positions after every layer, as the code that
  was published with RetLLM computes it (method, section 4).
- ``pair_by_pair``: pair by pair, with the output projection at the last position only, and nothing kept.
- ``cold``: the platform's scorer that has not seen the pictures before.
- ``warm``: the same scorer with another query (text to image) or other texts (image to text) on pictures that it has
  seen.

Rounds of all four take turns, so that what else the machine does falls on all of them alike; medians are compared.
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

from retllm.fine import Content, Injection, Scorer

WAYS = ("published_shape", "pair_by_pair", "cold", "warm")
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
    """Captions of about the length that people write, each different from the others of its seed."""
    rng = np.random.default_rng(seed)
    made: dict[str, None] = {}
    while len(made) < count:
        first, second = rng.choice(_THINGS, 2, replace=False)
        made[f"A {first} and a {second} {rng.choice(_PLACES)}, seen from {rng.integers(2, 90)} metres."] = None
    return list(made)


def pictures(count: int, side: int, seed: int) -> list[Image.Image]:
    """Square pictures of noise."""
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(count)]


@dataclass(frozen=True, slots=True)
class Speed:
    """What one run measured.

    Attributes:
        k: candidates of a query.
        device: where it ran.
        tokens: of one pair, visual ones included.
        pairs_per_second: for each direction and way, the median.
    """

    k: int
    device: str
    tokens: int
    pairs_per_second: dict[str, dict[str, float]]

    def as_json(self, parameters: int) -> dict[str, Any]:
        """The result as one JSON object."""
        rounded = {
            direction: {way: round(speed, 3) for way, speed in ways.items()}
            for direction, ways in self.pairs_per_second.items()
        }
        return {"parameters": parameters, "k": self.k, "device": self.device, "tokens_per_pair": self.tokens, **rounded}


def measure_fine(
    scorer: Scorer, k: int, side: int, rounds: int, injection: Injection, done: Callable[[], None] = lambda: None
) -> Speed:
    """Measure all ways in both directions.

    Args:
        scorer: the model, with room for the prefixes of k pictures.
        k: candidates of a query.
        side: of the pictures, in pixels.
        rounds: that count; one more warms up.
        injection: the settings of re-injection, for all ways but the published shape.
        done: called after each timed call.
    """
    seconds: dict[tuple[str, str], list[float]] = {(one, way): [] for one in DIRECTIONS for way in WAYS}
    tokens = 0
    for turn in range(rounds + 1):
        for direction in DIRECTIONS:
            matter = _Matter(direction, k, side, turn)
            for way in WAYS:
                took, tokens = _timed(scorer, way, matter, injection)
                if turn:
                    seconds[direction, way].append(took)
                done()
    speeds = {one: {way: k / statistics.median(seconds[one, way]) for way in WAYS} for one in DIRECTIONS}
    return Speed(k, scorer.info.device, tokens, speeds)


class _Matter:
    """Queries and candidates of one round; fresh pictures in each, so that no round knows those of another."""

    def __init__(self, direction: str, k: int, side: int, turn: int) -> None:
        texts = captions(k + 2, 1000 + turn)
        if direction == "t2i":
            self.candidates = [Content(image=one) for one in pictures(k, side, turn)]
            self.query, self.other = Content(text=texts[0]), Content(text=texts[1])
            self.others = self.candidates
        else:
            self.query = self.other = Content(image=pictures(1, side, turn)[0])
            self.candidates = [Content(text=one) for one in texts[:k]]
            self.others = [Content(text=one) for one in captions(k, 2000 + turn)]


def _timed(scorer: Scorer, way: str, matter: _Matter, injection: Injection) -> tuple[float, int]:
    """Seconds of one way, and the tokens of its last pair."""
    if way != "warm":
        scorer.forget()
    query, pool = (matter.other, matter.others) if way == "warm" else (matter.query, matter.candidates)
    _wait(scorer)
    started = time.perf_counter()
    tokens = 0
    if way == "published_shape":
        published_shape(scorer, query, pool)
    elif way == "pair_by_pair":
        with scorer.bare():
            for one in pool:
                tokens = scorer.score(query, [one], injection)[0].tokens
    else:
        tokens = scorer.score(query, pool, injection)[-1].tokens
    _wait(scorer)
    return time.perf_counter() - started, tokens


def _wait(scorer: Scorer) -> None:
    if scorer.info.device.startswith("cuda"):
        torch.cuda.synchronize()


def published_shape(scorer: Scorer, query: Content, candidates: Sequence[Content]) -> None:
    """Score pair by pair, reading every layer at every position through the output projection."""
    loaded = scorer.loaded
    head, norm = loaded.decoder.head, loaded.module.get_decoder().norm

    def read(_: Any, __: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        torch.softmax(head(norm(hidden))[:, -1].float().topk(10).values, dim=-1).cpu()

    handles = [layer.register_forward_hook(read) for layer in loaded.decoder.layers]
    try:
        for at, candidate in enumerate(candidates):
            with loaded.preparer.pictures_once(), torch.inference_mode():
                pair = loaded.preparer.pair(at, scorer.prompts.message("true_false", query, candidate))
                inputs = {
                    key: value.to(loaded.module.device, loaded.module.dtype if value.is_floating_point() else None)
                    for key, value in {**pair.tokens, **pair.vision}.items()
                }
                loaded.module(**inputs).logits[:, -1].float().softmax(-1).cpu()
    finally:
        for handle in handles:
            handle.remove()
