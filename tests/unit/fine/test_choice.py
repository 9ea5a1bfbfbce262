"""In the mode ``choice`` a score is the mean over both letter orders, and equals the reference and single calls."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.soak import scaled
from tests.unit.fine.families import with_each
from tests.unit.fine.reference import Reference, picture

from retllm.errors import ModelUnsuited, ScoreUnreadable
from retllm.fine import Content, Injection, Scorer, load_prompts, load_scorer
from retllm.fine.engine import Engine
from retllm.fine.modes.choice import Choice
from retllm.fine.odds import binary_entropy, mean_log_odds
from retllm.fine.prompts import Labels, Prompts

CAPTION = "a red square is left of a dog"
EAGER = Injection(alpha=0.5, tau=0.66, start=0, end=6, scope="all")
OFF = Injection(trigger="off")
FIRST = "A: they match. B: they do not match. Please directly output A or B"
SECOND = "A: they do not match. B: they match. Please directly output A or B"


def letter_probabilities(reference: Reference, logits: np.ndarray) -> tuple[float, float]:
    """Return P(A) and P(B) of a softmax over the two letters, with and without a leading space."""
    masses = [np.exp(logits[reference.ids(letter, f"Ġ{letter}", f"▁{letter}")]).sum() for letter in "AB"]
    return masses[0] / sum(masses), masses[1] / sum(masses)


@pytest.mark.parametrize(("family", "kind"), with_each(["off", "entropy"], of_others=1))
def test_the_score_is_the_mean_of_the_letter_softmax_over_both_letter_orders(
    family: str,
    kind: str,
    scorer_of: Callable[[str], Scorer],
    reference_of: Callable[[str], Reference],
) -> None:
    reference, settings = reference_of(family), {"off": OFF, "entropy": EAGER}[kind]
    pictures = [picture(seed, 16 + 6 * seed, 30 - 4 * seed) for seed in range(scaled(2, 3))]
    pool = [Content(image=image) for image in pictures]
    scores = scorer_of(family).score(Content(text=CAPTION), pool, settings, mode="choice")
    for found, image in zip(scores, pictures, strict=True):
        first, second = (
            reference.run(
                [
                    {"type": "image", "image": image},
                    {"type": "text", "text": f"Does the image match the caption: <{CAPTION}>? {ask}"},
                ],
                settings,
            )
            for ask in (FIRST, SECOND)
        )
        p = (letter_probabilities(reference, first.logits)[0] + letter_probabilities(reference, second.logits)[1]) / 2
        assert found.score == pytest.approx(p, rel=2e-3)
        assert found.log_odds == pytest.approx(math.log(p) - math.log1p(-p), rel=2e-3, abs=2e-3)
        assert found.entropy == pytest.approx(-p * math.log(p) - (1 - p) * math.log1p(-p), rel=2e-3)
        assert found.injected_layer == first.layer
        if first.uncertainty is None:
            assert found.uncertainty is None
        else:
            assert found.uncertainty == pytest.approx(first.uncertainty, abs=1e-4)
        assert found.error is None


def pool() -> list[Content]:
    pictures = [picture(seed, 16 + 5 * seed % 31, 16 + 7 * seed % 29) for seed in range(5)]
    texts = ["a red square", "a small blue circle is left of a red square and " * 3]
    both = [Content(image=picture(20 + at, 30, 20), text=text) for at, text in enumerate(texts)]
    return [*(Content(image=image) for image in pictures), *(Content(text=text) for text in texts), *both]


@pytest.mark.parametrize(
    "query", [Content(text=CAPTION), Content(image=picture(9, 28, 20), text="x")], ids=["text", "both"]
)
@pytest.mark.parametrize("settings", [OFF, EAGER, Injection(alpha=0.5, tau=0.66, start=0, end=6, scope="suffix")])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_5", "llava", "gemma3"])
def test_a_score_does_not_depend_on_its_batch(
    family: str, settings: Injection, query: Content, scorer_of: Callable[[str], Scorer]
) -> None:
    scorer, some = scorer_of(family), pool()[:: scaled(2, 1)]
    alone = [scorer.score(query, [one], settings, mode="choice")[0] for one in some]
    order = [int(at) for at in np.random.default_rng(3).permutation([*range(len(some)), 0, 3])]
    found = scorer.score(query, [some[at] for at in order], settings, mode="choice")
    for at, score in zip(order, found, strict=True):
        assert score.score == pytest.approx(alone[at].score, rel=1e-3)
        assert score.log_odds == pytest.approx(alone[at].log_odds, abs=1e-3)
        assert score.entropy == pytest.approx(alone[at].entropy, rel=1e-3)
        assert score.injected_layer == alone[at].injected_layer
        assert score.uncertainty == pytest.approx(alone[at].uncertainty, abs=1e-4)
        assert score.tokens == alone[at].tokens


def test_both_letter_orders_are_adjacent_in_one_engine_call(qwen: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the engine computes their shared prefix once."""
    calls: list[list[str]] = []
    plain = Engine.answer

    def recorded(self: Engine, asks: Any, read: Any) -> Any:
        calls.append([f"{ask.candidate}{ask.message[-1][-len(FIRST) :]}" for ask in asks])
        return plain(self, asks, read)

    monkeypatch.setattr(Engine, "answer", recorded)
    qwen.score(Content(text=CAPTION), pool()[:3], OFF, mode="choice")
    assert calls[-1] == [f"{at}{ask}" for at in range(3) for ask in (FIRST, SECOND)]


@given(st.floats(-30, 30), st.floats(-30, 30))
def test_log_odds_and_entropy_are_those_of_the_mean_probability(one: float, other: float) -> None:
    p = (1 / (1 + math.exp(-one)) + 1 / (1 + math.exp(-other))) / 2
    q = (1 / (1 + math.exp(one)) + 1 / (1 + math.exp(other))) / 2
    assert mean_log_odds(one, other) == pytest.approx(math.log(p) - math.log(q), abs=1e-9)
    assert binary_entropy(mean_log_odds(one, other)) == pytest.approx(-p * math.log(p) - q * math.log(q), abs=1e-9)


def test_log_odds_stay_precise_where_the_probability_rounds_to_0_or_1() -> None:
    assert mean_log_odds(900, 800) == pytest.approx(800 + math.log(2))
    assert mean_log_odds(-900, -800) == pytest.approx(-800 - math.log(2))
    assert mean_log_odds(-800, 800) == pytest.approx(0)
    assert binary_entropy(800) == binary_entropy(-800) == 0
    assert mean_log_odds(math.inf, math.inf) == math.inf
    assert mean_log_odds(-math.inf, math.inf) == 0


def test_a_letter_of_several_tokens_is_refused_when_the_mode_is_first_used(
    model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading the model and the other modes do not need the letters."""
    shipped = load_prompts()
    labels = {**shipped.labels, "choice": Labels(("Alpha", " Alpha"), ("B",))}
    changed = Prompts(shipped.version, shipped.ask, labels, shipped.pairs)
    for module in ("scorer", "labels"):
        monkeypatch.setattr(f"retllm.fine.{module}.load_prompts", lambda: changed)
    scorer = load_scorer(str(model_folder("qwen2_5_vl")), device="cpu")
    assert scorer.score(Content(text="a"), [Content(text="b")])[0].score is not None
    with pytest.raises(ModelUnsuited, match=r'"Alpha" is not a single token'):
        scorer.score(Content(text="a"), [Content(text="b")], mode="choice")


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_non_finite_logits_are_an_error(qwen: Scorer, broken: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the logits of the letters themselves are finite."""
    head = qwen._loaded.decoder.head
    plain = head.forward

    def broken_logits(hidden: torch.Tensor) -> torch.Tensor:
        logits = plain(hidden).clone()
        logits[..., 0] = broken
        return logits

    monkeypatch.setattr(head, "forward", broken_logits)
    with pytest.raises(ScoreUnreadable) as caught:
        qwen.score(Content(text="a"), [Content(text="b")], OFF, mode="choice")
    assert caught.value.detail["index"] == 0


def test_the_probability_of_a_letter_is_summed_over_its_spellings(qwen: Scorer) -> None:
    """The log-odds of the reader equal those of summed probabilities."""
    choice = Choice(load_prompts(), qwen._loaded)
    choice._first, choice._second = torch.tensor([3, 5]), torch.tensor([8])
    logits = torch.randn(4, 20, generator=torch.Generator().manual_seed(1)).bfloat16()
    p = torch.softmax(logits.double(), dim=-1)
    expected = (p[:, 3] + p[:, 5]).log() - p[:, 8].log()
    torch.testing.assert_close(choice._read(logits)[:, 0].double(), expected, atol=1e-5, rtol=1e-5)
