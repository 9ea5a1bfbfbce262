"""Uncertainty and label probability agree with their formulas, computed with numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from retllm.fine.trigger import early_uncertainty, label_probability

LOGITS = arrays(np.float32, (3, 40), elements=st.floats(-30, 30, width=32))


@given(LOGITS)
def test_early_uncertainty_is_the_normalised_entropy_of_the_ten_largest_logits(logits: np.ndarray) -> None:
    top = np.sort(logits.astype(np.float64), axis=1)[:, -10:]
    p = np.exp(top - top.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    expected = -(p * np.log(np.maximum(p, 1e-300))).sum(axis=1) / np.log(10)
    np.testing.assert_allclose(early_uncertainty(torch.from_numpy(logits)).numpy(), expected, atol=1e-5)


def test_early_uncertainty_ranges_from_0_to_1() -> None:
    sure, unsure = torch.zeros(1, 50), torch.zeros(1, 50)
    sure[0, 3] = 200
    assert early_uncertainty(sure).item() == 0
    assert early_uncertainty(unsure).item() == pytest.approx(1, abs=1e-6)


@given(LOGITS, st.lists(st.integers(0, 39), min_size=1, max_size=4, unique=True))
def test_the_probability_of_a_label_is_summed_over_its_tokens(logits: np.ndarray, labels: list[int]) -> None:
    wide = logits.astype(np.float64)
    p = np.exp(wide - wide.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    score, log_odds, entropy = label_probability(torch.from_numpy(logits), torch.tensor(labels))
    np.testing.assert_allclose(score.numpy(), p[:, labels].sum(axis=1), rtol=1e-4, atol=1e-7)
    mass, rest = p[:, labels].sum(axis=1), np.delete(p, labels, axis=1).sum(axis=1)
    np.testing.assert_allclose(log_odds.numpy(), np.log(mass) - np.log(rest), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(entropy.numpy(), -(p * np.log(np.maximum(p, 1e-300))).sum(axis=1), atol=1e-4)


def test_a_logit_of_minus_infinity_has_no_effect() -> None:
    logits = torch.tensor([[0.0, -torch.inf, 0.0]])
    score, log_odds, entropy = label_probability(logits, torch.tensor([0]))
    assert (score.item(), log_odds.item()) == (0.5, 0.0)
    assert entropy.item() == pytest.approx(np.log(2))
