"""Arithmetic of probabilities near 0 and 1, where only their log-odds stay precise."""

from __future__ import annotations

import math

#: probabilities that a model writes are clipped to this distance from 0 and 1, which have no finite log-odds
_MARGIN = 1e-6


def log_sigmoid(x: float) -> float:
    """Return the logarithm of the probability with the log-odds ``x``."""
    return min(x, 0.0) - math.log1p(math.exp(-abs(x)))


def mean_log_odds(one: float, other: float) -> float:
    """Return the log-odds of the mean of two probabilities given as log-odds; stays precise near 0 and 1."""
    return _log_add(log_sigmoid(one), log_sigmoid(other)) - _log_add(log_sigmoid(-one), log_sigmoid(-other))


def binary_entropy(log_odds: float) -> float:
    """Return ``-p ln p - (1 - p) ln (1 - p)`` in nats for the p with these log-odds."""
    # p ln p is 0 if p rounds to 0 or 1
    logs = (log_sigmoid(log_odds), log_sigmoid(-log_odds))
    return sum(-math.exp(log) * log for log in logs if log > -700)


def clipped_log_odds(score: float, margin: float = _MARGIN) -> float:
    """Return the log-odds of a score, which is first clipped to ``margin`` from 0 and 1."""
    clipped = min(max(score, margin), 1 - margin)
    return math.log(clipped) - math.log1p(-clipped)


def _log_add(a: float, b: float) -> float:
    if a == b == -math.inf:
        return a
    return max(a, b) + math.log1p(math.exp(-abs(a - b)))
