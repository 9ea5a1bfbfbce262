"""Scoring does not change the model, and calls with different settings do not affect each other, in every family."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from tests.unit.fine.families import FAMILIES, with_each
from tests.unit.fine.pairs import EAGER, OFF, QUERIES, assert_same_score, picture, token_budget

from retllm.fine import Content, Injection, PairScore, Scorer, load_scorer

#: every trigger, scope and scaling
SETTINGS = {
    "off": OFF,
    "entropy": EAGER,
    "entropy, suffix": Injection(alpha=0.4, tau=0.6, start=0, end=6, scope="suffix"),
    "fixed, suffix, bare formula": Injection(trigger="fixed", fixed_layer=2, scope="suffix", scaling=False, alpha=0.2),
    "fixed, gate": Injection(trigger="fixed", fixed_layer=4, key_weight="gate"),
}


def pool() -> list[Content]:
    """Return a few candidates of different lengths, all with a picture."""
    pictures = [Content(image=picture(50 + at, 18 + 7 * at, 30 - 5 * at)) for at in range(3)]
    return [*pictures, Content(image=picture(60, 26, 20), text="a small blue circle is left of a dog")]


def hooks_of(module: torch.nn.Module) -> list[str]:
    """Return all hooks in the model, except those with which transformers itself reads layers."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    found = [hook for one in module.modules() for kind in kinds for hook in getattr(one, kind).values()]
    return [hook.__qualname__ for hook in found if not hook.__module__.startswith("transformers.")]


def replaced_forwards(module: torch.nn.Module) -> list[str]:
    """Return the modules whose forward method was replaced."""
    return [name for name, one in module.named_modules() if "forward" in vars(one)]


class Broken(RuntimeError):
    """An error inside the model."""


def vision_tower(scorer: Scorer) -> torch.nn.Module:
    trunk = scorer._loaded.module.model
    found = (getattr(trunk, name, None) for name in ("visual", "vision_tower", "vision_model"))
    return next(one for one in found if one is not None)


PARTS: dict[str, Callable[[Scorer], Any]] = {
    "vision tower": vision_tower,
    "layer before": lambda scorer: scorer._loaded.decoder.layers[1],
    "injected layer": lambda scorer: scorer._loaded.decoder.layers[2].mlp,
    "head": lambda scorer: scorer._loaded.decoder.head,
}


@pytest.mark.parametrize(("family", "scope"), with_each(["all", "suffix"], of_others=1))
def test_a_forward_pass_leaves_the_model_unchanged(
    family: str, scope: Literal["all", "suffix"], scorer_of: Callable[[str], Scorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even after an error in the vision tower, a layer, the injected network or the head."""
    scorer, always = scorer_of(family), Injection(trigger="fixed", fixed_layer=2, scope=scope)
    module = scorer._loaded.module
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    forwards = replaced_forwards(module)
    scorer.forget()
    expected = scorer.score(QUERIES["text"], pool(), always)
    assert all(score.injected_layer == 2 for score in expected)
    assert hooks_of(module) == []

    def fail(*_: Any, **__: Any) -> None:
        raise Broken

    for where, part in PARTS.items():
        with monkeypatch.context() as patch:
            patch.setattr(part(scorer), "forward", fail)
            scorer.forget()
            with pytest.raises(Broken):
                scorer.score(QUERIES["text"], pool(), always)
        assert hooks_of(module) == [], where
        assert replaced_forwards(module) == forwards, where
        assert scorer.score(QUERIES["text"], pool(), always) == expected, where
    assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize(("family", "kind"), with_each([kind for kind in SETTINGS if kind != "entropy"], of_others=1))
def test_with_any_settings_a_score_does_not_depend_on_its_batch(
    family: str, kind: str, scorer_of: Callable[[str], Scorer]
) -> None:
    scorer, candidates = scorer_of(family), pool()
    alone = [scorer.score(QUERIES["text"], [one], SETTINGS[kind])[0] for one in candidates]
    for order, budget in (([2, 0, 3, 1], 100_000), ([3, 1, 1, 0, 2], 300)):
        scorer.forget()
        with token_budget(scorer, budget):
            found = scorer.score(QUERIES["text"], [candidates[at] for at in order], SETTINGS[kind])
        for at, score in zip(order, found, strict=True):
            assert_same_score(score, alone[at])


def run_concurrently(work: dict[str, Callable[[], list[PairScore]]]) -> dict[str, list[list[PairScore]]]:
    """Run each function twice in its own thread, all threads starting together."""
    found: dict[str, list[list[PairScore]]] = {name: [] for name in work}
    start = threading.Barrier(len(work))

    def run(name: str) -> None:
        start.wait(60)
        for _ in range(2):
            found[name].append(work[name]())

    threads = [threading.Thread(target=run, args=(name,)) for name in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_concurrent_calls_of_one_scorer_with_different_settings_do_not_interfere(
    family: str, scorer_of: Callable[[str], Scorer]
) -> None:
    scorer = scorer_of(family)
    chosen = {kind: SETTINGS[kind] for kind in ("off", "entropy", "fixed, suffix, bare formula")}
    expected = {kind: scorer.score(QUERIES["text"], pool(), settings) for kind, settings in chosen.items()}
    work = {
        kind: lambda settings=settings: scorer.score(QUERIES["text"], pool(), settings)
        for kind, settings in chosen.items()
    }
    for kind, several in run_concurrently(work).items():
        assert len(several) == 2
        for found in several:
            for one, other in zip(found, expected[kind], strict=True):
                assert_same_score(one, other)


def test_concurrent_scorers_with_different_settings_do_not_interfere(
    model_folder: Callable[[str], Path],
) -> None:
    """The models that run at the same time are of the same family and of different families."""
    scorers = [load_scorer(str(model_folder(family)), device="cpu") for family in ("llava", "llava", "mistral3")]
    chosen = [SETTINGS["entropy"], SETTINGS["off"], SETTINGS["fixed, gate"]]
    both = list(zip(scorers, chosen, strict=True))
    expected = [scorer.score(QUERIES["text"], pool(), settings) for scorer, settings in both]
    work = {
        str(at): lambda scorer=scorer, settings=settings: scorer.score(QUERIES["text"], pool(), settings)
        for at, (scorer, settings) in enumerate(both)
    }
    for at, several in run_concurrently(work).items():
        assert len(several) == 2
        for found in several:
            for one, other in zip(found, expected[int(at)], strict=True):
                assert_same_score(one, other)


def test_these_settings_give_different_scores(scorer_of: Callable[[str], Scorer]) -> None:
    """Otherwise the tests above could not fail."""
    for family in FAMILIES:
        scores = {
            tuple(round(score.entropy, 3) for score in scorer_of(family).score(QUERIES["text"], pool(), settings))
            for settings in SETTINGS.values()
        }
        assert len(scores) == len(SETTINGS), family
