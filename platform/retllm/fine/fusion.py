"""Fusion of the two stages: the fine log-odds and the coarse similarity as one number to order by."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from retllm.errors import InvalidInput

# similarities come in single precision; a smaller deviation over the pool is rounding, not an order
_NOISE = 1e-6


def standardised(similarities: Sequence[float | None]) -> NDArray[np.float64]:
    """The similarities with mean 0 and (population) standard deviation 1 over the pool; 0 where all are alike.

    One that is not known counts as the mean of those that are, 0: it speaks neither for its candidate nor against it.
    """
    shares = np.zeros(len(similarities), dtype=np.float64)
    known = np.asarray([value is not None for value in similarities], dtype=bool)
    values = np.asarray([value for value in similarities if value is not None], dtype=np.float64)
    if values.size and float(values.std()) >= _NOISE:
        shares[known] = (values - values.mean()) / values.std()
    return shares


def fused(log_odds: Sequence[float | None], similarities: Sequence[float | None], weight: float) -> list[float | None]:
    """``log-odds + weight * z`` for each candidate, with z its similarity standardised over the whole pool.

    Standardised, since cosine similarities of one pool lie within a few hundredths of each other, at a place
    that depends on the query and on the model.

    Args:
        log_odds: of each candidate; None where there is none, and then there is no fused number either.
        similarities: cosine similarity of each candidate of the pool, scored or not; None where it has none.
        weight: log-odds that one standard deviation of similarity is worth; 0 leaves the log-odds as they are.

    Raises:
        InvalidInput: the two differ in length, or the weight is not a finite number of 0 or more.
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
