"""Fusion of the two stages: combine the fine log-odds and the coarse similarity into one number to sort by."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from retllm.errors import InvalidInput

# similarities have single precision; a smaller deviation over the pool is rounding error
_NOISE = 1e-6


def standardised(similarities: Sequence[float | None]) -> NDArray[np.float64]:
    """Scale the similarities to mean 0 and (population) standard deviation 1 over the pool; all 0 if all are equal.

    An unknown similarity counts as the mean, 0.
    """
    shares = np.zeros(len(similarities), dtype=np.float64)
    known = np.asarray([value is not None for value in similarities], dtype=bool)
    values = np.asarray([value for value in similarities if value is not None], dtype=np.float64)
    if values.size and float(values.std()) >= _NOISE:
        shares[known] = (values - values.mean()) / values.std()
    return shares


def fused(log_odds: Sequence[float | None], similarities: Sequence[float | None], weight: float) -> list[float | None]:
    """Return ``log-odds + weight * z`` for each candidate, with z its similarity standardised over the whole pool.

    The cosine similarities of one pool lie within a few hundredths of each other, around a mean that depends on the
    query and the model; hence the standardisation.

    Args:
        log_odds: of each candidate; the result is None where this is None.
        similarities: cosine similarity of each candidate of the pool, scored or not; None if unknown.
        weight: log-odds added per standard deviation of similarity; 0 leaves the log-odds unchanged.

    Raises:
        InvalidInput: the lengths differ, or the weight is negative or not finite.
    """
    if len(log_odds) != len(similarities):
        raise InvalidInput(
            f"There are {len(log_odds)} log-odds but {len(similarities)} similarities.", field="similarities"
        )
    if not math.isfinite(weight) or weight < 0:
        raise InvalidInput(f"The fusion weight must be a finite number, 0 or more, not {weight!r}.", field="weight")
    if weight == 0:
        return list(log_odds)
    shares = standardised(similarities)
    return [
        None if value is None else float(value + weight * share) for value, share in zip(log_odds, shares, strict=True)
    ]
