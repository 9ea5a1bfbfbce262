"""The model's uncertainty, computed from logits: the early reading that triggers re-injection, and the final answer."""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: the early reading uses this many of the largest logits (MemVR)
EARLY_TOP = 10


def early_uncertainty(logits: Tensor) -> Tensor:
    """Return ``u = -sum p ln p / ln 10`` over a softmax of the ten largest logits (method section 4).

    Args:
        logits: (b, vocabulary), of ``lm_head(norm(h))`` after some layer, last position.

    Returns:
        (b,) float32, from 0 (sure) to 1 (ten answers equally likely).
    """
    top = logits.float().topk(min(EARLY_TOP, logits.shape[-1]), dim=-1).values
    entropy: Tensor = torch.special.entr(torch.softmax(top, dim=-1)).sum(dim=-1)
    return entropy / math.log(EARLY_TOP)


def label_odds(logits: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Return (b,) float32, the log-odds of the positive against the negative label, each summed over its tokens.

    Args:
        logits: (b, vocabulary), any dtype.
        positive, negative: (n,) token ids.
    """
    logits = logits.float()
    odds: Tensor = logits[:, positive].logsumexp(dim=-1) - logits[:, negative].logsumexp(dim=-1)
    return odds


def label_mass(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (b,) float32, the probability of all ``labels`` (n,) together; ``logits`` as for :func:`label_odds`."""
    logits = logits.float()
    mass: Tensor = (logits[:, labels].logsumexp(dim=-1) - logits.logsumexp(dim=-1)).exp()
    return mass


def label_probability(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the score and the uncertainty at the last position (method section 3; RetLLM eq. 2 and 7).

    Args:
        logits: (b, vocabulary), any dtype; the arithmetic is float32.
        labels: (n,) token ids whose probabilities are summed.

    Returns:
        (b,) summed probability p over the full vocabulary, (b,) its log-odds ln p - ln(1 - p), computed from the
        logits and so finite even if p rounds to 0 or 1, and (b,) entropy of the distribution in nats.
    """
    logits = logits.float()
    probabilities = torch.softmax(logits, dim=-1)
    rest = logits.index_fill(-1, labels, -torch.inf)
    log_odds = logits[:, labels].logsumexp(dim=-1) - rest.logsumexp(dim=-1)
    return probabilities[:, labels].sum(dim=-1), log_odds, torch.special.entr(probabilities).sum(dim=-1)
