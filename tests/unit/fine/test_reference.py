"""The scores equal those of the reference implementation in :mod:`tests.unit.fine.reference`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.soak import scaled
from tests.unit.fine.families import FAMILIES, with_each
from tests.unit.fine.reference import Expected, Reference, picture

from retllm.fine import Content, Injection, Scorer

CAPTION = "a red square is left of a dog"
SETTINGS = {
    "off": Injection(trigger="off"),
    "defaults": Injection(),
    "entropy": Injection(trigger="entropy", tau=0.6, start=0, end=6, alpha=0.4, scope="all"),
    "tau 0": Injection(trigger="entropy", tau=0.0, start=1, end=4, scope="all"),
    "fixed": Injection(trigger="fixed", fixed_layer=3, alpha=0.3, scope="all"),
    "last layer": Injection(trigger="fixed", fixed_layer=5, alpha=0.3, scope="all"),
    "gate": Injection(trigger="fixed", fixed_layer=2, key_weight="gate", alpha=0.12, scope="all"),
    "suffix": Injection(trigger="fixed", fixed_layer=2, scope="suffix", alpha=0.5),
    "bare formula": Injection(trigger="fixed", fixed_layer=2, scaling=False, alpha=0.2, scope="all"),
    "alpha 1": Injection(trigger="fixed", fixed_layer=2, alpha=1.0, scope="all"),
}


def assert_agrees(found: Any, expected: Expected) -> None:
    assert found.injected_layer == expected.layer
    assert found.score == pytest.approx(expected.score, rel=2e-3)
    assert found.entropy == pytest.approx(expected.entropy, rel=2e-3)
    if expected.uncertainty is None:
        assert found.uncertainty is None
    else:
        assert found.uncertainty == pytest.approx(expected.uncertainty, abs=1e-4)


@pytest.mark.parametrize(("family", "kind"), with_each(list(SETTINGS), of_others=2))
def test_scores_of_pictures_against_a_text_equal_the_reference(
    family: str,
    kind: str,
    scorer_of: Callable[[str], Scorer],
    reference_of: Callable[[str], Reference],
) -> None:
    settings = SETTINGS[kind]
    # with the entropy trigger, samples are injected at different layers
    count = 3 if settings.trigger == "entropy" else scaled(2, 3)
    pictures = [picture(seed, 16 + 6 * seed, 30 - 4 * seed) for seed in range(count)]
    scores = scorer_of(family).score(Content(text=CAPTION), [Content(image=image) for image in pictures], settings)
    question = f"Does the image match the caption: <{CAPTION}>? Please directly output True or False"
    for found, image in zip(scores, pictures, strict=True):
        content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
        assert_agrees(found, reference_of(family).score(content, settings))


@pytest.mark.parametrize(("family", "kind"), with_each(["entropy", "suffix"], of_others=1))
def test_a_pair_of_two_pictures_is_injected_with_the_visual_tokens_of_both(
    family: str,
    kind: str,
    scorer_of: Callable[[str], Scorer],
    reference_of: Callable[[str], Reference],
) -> None:
    settings = SETTINGS[kind]
    query, candidates = picture(10, 20, 18), [picture(11, 26, 14), picture(12, 16, 32)]
    scores = scorer_of(family).score(Content(image=query), [Content(image=image) for image in candidates], settings)
    for found, image in zip(scores, candidates, strict=True):
        content = [
            {"type": "text", "text": "Query image:"},
            {"type": "image", "image": query},
            {"type": "text", "text": "Candidate image:"},
            {"type": "image", "image": image},
            {
                "type": "text",
                "text": "Does the candidate image show the same thing as the query image? "
                "Please directly output True or False",
            },
        ]
        assert_agrees(found, reference_of(family).score(content, settings))


def test_the_entropy_settings_inject_samples_at_different_layers(scorer_of: Callable[[str], Scorer]) -> None:
    """Otherwise the comparisons above would not show that each sample is armed separately."""
    pictures = [picture(seed, 16 + 6 * seed, 30 - 4 * seed) for seed in range(4)]
    layers = {
        score.injected_layer
        for family in FAMILIES
        for score in scorer_of(family).score(
            Content(text=CAPTION), [Content(image=image) for image in pictures], SETTINGS["entropy"]
        )
    }
    assert len(layers) >= 3
