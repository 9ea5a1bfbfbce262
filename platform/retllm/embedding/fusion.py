"""Combine picture and text of a query or an item into one vector (method section 2)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from retllm.errors import InvalidInput

Vector = NDArray[np.float32]

QUERY_IMAGE_WEIGHT = 0.8
"""Weight of the picture in a query with picture and text; the text has the rest (RetLLM's code, MMEB)."""

ITEM_IMAGE_WEIGHT = 0.7
"""Weight of the picture in an item with picture and text."""


def fuse(image_vec: Vector | None, text_vec: Vector | None, image_weight: float) -> Vector:
    """Return the normalised weighted sum of the normalised embeddings of a picture and a text.

    Args:
        image_vec, text_vec: (d,) or (n, d), of any length; either may be None, then only the other is used.
        image_weight: weight of the picture, 0 to 1.

    Returns:
        float32 of the same shape, each row of length 1.

    Raises:
        InvalidInput: both are None, their shapes differ, the weight is not 0 to 1, or a vector or the sum is zero or
            not finite.
    """
    if not 0 <= image_weight <= 1:
        raise InvalidInput(f"image_weight must be 0 to 1, not {image_weight}.", field="image_weight")
    if image_vec is None and text_vec is None:
        raise InvalidInput("There is neither a picture nor a text to embed.", field="content")
    if image_vec is None or text_vec is None:
        return _normalised(text_vec if image_vec is None else image_vec)
    if image_vec.shape != text_vec.shape:
        raise InvalidInput(
            f"The embeddings of picture {image_vec.shape} and text {text_vec.shape} have different shapes.",
            field="content",
        )
    return _normalised(image_weight * _normalised(image_vec) + (1 - image_weight) * _normalised(text_vec))


def _normalised(vectors: Vector | None) -> Vector:
    assert vectors is not None
    wide = np.asarray(vectors, dtype=np.float64)
    length = np.linalg.norm(wide, axis=-1, keepdims=True)
    if not np.all(np.isfinite(length)) or np.any(length < 1e-9):
        raise InvalidInput("An embedding is zero or not finite.", field="content")
    normalised: Vector = (wide / length).astype(np.float32)
    return normalised
