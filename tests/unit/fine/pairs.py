"""Queries and candidates of all modalities, and the comparison of two scores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image
from tests.unit.fine.families import NEED_A_PICTURE

from retllm.fine import Content, Injection, PairScore, Scorer

#: triggers at different layers for some samples, and not at all for others
EAGER = Injection(alpha=0.5, tau=0.66, start=0, end=6, scope="all")
OFF = Injection(trigger="off")


def picture(seed: int, width: int = 24, height: int = 16) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def candidates() -> list[Content]:
    """Return candidates of all modalities and many lengths."""
    pictures = [picture(seed, 16 + 5 * seed % 31, 16 + 7 * seed % 29) for seed in range(6)]
    texts = ["a red square", "x", "a small blue circle is left of a red square and " * 3, "a dog"]
    both = [Content(image=picture(20 + at, 30, 20), text=text) for at, text in enumerate(texts[:3])]
    return [*(Content(image=image) for image in pictures), *(Content(text=text) for text in texts), *both]


QUERIES = {
    "text": Content(text="a red square is left of a dog"),
    "image": Content(image=picture(99, 28, 20)),
    "both": Content(image=picture(98, 20, 26), text="a blue circle"),
}


def pool_for(scorer: Scorer, query: str) -> list[Content]:
    """Return the candidates that the family can compare with the query."""
    if scorer._loaded.module.config.model_type in NEED_A_PICTURE and QUERIES[query].image is None:
        return [one for one in candidates() if one.image is not None]
    return candidates()


def assert_same_score(one: PairScore, other: PairScore) -> None:
    assert one.score == pytest.approx(other.score, rel=2e-4)
    assert one.entropy == pytest.approx(other.entropy, rel=2e-4)
    assert one.injected_layer == other.injected_layer
    assert one.uncertainty == pytest.approx(other.uncertainty, abs=1e-4)
    assert one.tokens == other.tokens


@contextmanager
def token_budget(scorer: Scorer, budget: int) -> Iterator[None]:
    before = scorer._token_budget
    scorer._token_budget = budget
    try:
        yield
    finally:
        scorer._token_budget = before
