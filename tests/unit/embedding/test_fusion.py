"""The embeddings of a picture and a text are fused into one unit vector."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from retllm.embedding import fuse
from retllm.errors import InvalidInput

VECTORS = arrays(np.float32, 8, elements=st.floats(0.125, 100, width=32))


@given(VECTORS, VECTORS, st.floats(0, 1))
def test_fusion_is_the_weighted_sum_of_the_unit_vectors(image: np.ndarray, text: np.ndarray, weight: float) -> None:
    fused = fuse(image, text, weight)
    expected = weight * image / np.linalg.norm(image) + (1 - weight) * text / np.linalg.norm(text)
    np.testing.assert_allclose(fused, expected / np.linalg.norm(expected), atol=1e-5)
    assert fused.dtype == np.float32


@given(VECTORS)
def test_fusion_without_one_part_returns_the_other(vector: np.ndarray) -> None:
    unit = vector / np.linalg.norm(vector)
    np.testing.assert_allclose(fuse(vector, None, 0.1), unit, atol=1e-6)
    np.testing.assert_allclose(fuse(None, vector, 0.9), unit, atol=1e-6)


def test_each_row_is_fused_separately() -> None:
    rng = np.random.default_rng(0)
    images, texts = rng.normal(size=(2, 5, 8)).astype(np.float32)
    rows = fuse(images, texts, 0.7)
    for row, image, text in zip(rows, images, texts, strict=True):
        np.testing.assert_allclose(row, fuse(image, text, 0.7), atol=1e-6)


@pytest.mark.parametrize(
    ("image", "text", "weight"),
    [
        (None, None, 0.5),
        (np.ones(3, np.float32), np.ones(4, np.float32), 0.5),
        (np.ones(3, np.float32), np.ones(3, np.float32), 1.5),
        (np.ones(3, np.float32), np.ones(3, np.float32), float("nan")),
        (np.zeros(3, np.float32), None, 0.5),
        (np.ones(3, np.float32), -np.ones(3, np.float32), 0.5),
        (np.full(3, np.nan, np.float32), None, 0.5),
    ],
)
def test_vectors_that_cannot_be_fused_are_refused(image: object, text: object, weight: float) -> None:
    with pytest.raises(InvalidInput):
        fuse(image, text, weight)  # type: ignore[arg-type]
