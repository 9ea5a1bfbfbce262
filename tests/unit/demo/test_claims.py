"""Captions as claims about a scene, and when a claim is true."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from retllm.demo.claims import (
    PairClaim,
    Phrase,
    caption,
    describes_held_out,
    full_claim,
    holds,
    place_claim,
    random_claim,
    unambiguously_false,
)
from retllm.demo.scenes import Scene, SceneObject, is_held_out, random_scene, random_single

RED, BLUE, GREEN = (
    SceneObject("large", "red", "circle"),
    SceneObject("small", "blue", "square"),
    SceneObject("small", "green", "ring"),
)
TWO = Scene(RED, BLUE, "left of", layout=0)
THREE = Scene(RED, BLUE, "left of", GREEN, layout=0)
A_RED, A_BLUE = Phrase("large", "red", "circle"), Phrase("small", "blue", "square")


def test_a_caption_names_the_objects_and_their_relation():
    """Either object can come first; a third object is added with "and"."""
    assert caption(TWO) == "a large red circle left of a small blue square"
    assert caption(replace(TWO, layout=1)) == "a small blue square right of a large red circle"
    assert caption(THREE) == "a large red circle left of a small blue square and a small green ring"
    assert str(PairClaim(Phrase(None, "red", "circle"), "above", A_BLUE)) == "a red circle above a small blue square"


@pytest.mark.parametrize(
    ("claim", "true"),
    [
        (PairClaim(A_RED, "left of", A_BLUE), True),
        (PairClaim(A_BLUE, "right of", A_RED), True),
        (PairClaim(Phrase(None, "red", "circle"), "left of", A_BLUE), True),
        (PairClaim(A_RED, "right of", A_BLUE), False),
        (PairClaim(A_BLUE, "left of", A_RED), False),
        (PairClaim(A_RED, "above", A_BLUE), False),
        (PairClaim(Phrase("small", "red", "circle"), "left of", A_BLUE), False),
        (PairClaim(Phrase("large", "blue", "circle"), "left of", A_BLUE), False),
        (PairClaim(A_RED, "left of", A_BLUE, Phrase(None, "green", "ring")), False),
    ],
)
def test_a_claim_is_true_if_all_its_parts_are_true(claim, true):
    """The order of the objects does not matter; a property that is left out is not claimed."""
    assert holds(claim, TWO) is true
    assert unambiguously_false(claim, TWO) is not true


def test_a_third_object_may_be_left_out_but_not_invented():
    """A caption need not name every object, but may name only objects of the scene."""
    assert holds(PairClaim(A_RED, "left of", A_BLUE), THREE)
    assert holds(PairClaim(A_RED, "left of", A_BLUE, Phrase(None, "green", "ring")), THREE)
    assert not holds(PairClaim(A_RED, "left of", A_BLUE, Phrase("large", "green", "ring")), THREE)


def test_a_relation_to_the_third_object_is_unclear():
    """It depends on the layout, so it is neither true nor plainly false."""
    claim = PairClaim(A_RED, "above", Phrase("small", "green", "ring"))
    assert not holds(claim, THREE)
    assert not unambiguously_false(claim, THREE)


def test_random_true_claims_are_true():
    """For every form of claim."""
    rng = random.Random(1)
    for _ in range(500):
        scene = random_scene(rng, held_out=False, third_share=0.5)
        assert holds(random_claim(scene, rng), scene)
        assert holds(full_claim(scene), scene)


def test_a_place_claim_names_the_place_of_an_object():
    """For a single object its place, for a pair the end of its axis."""
    rng = random.Random(2)
    single = random_single(rng)
    assert place_claim(single, rng).place == single.place
    seen = {str(place_claim(TWO, rng, open_size=0.0)) for _ in range(40)}
    assert seen == {"a large red circle on the left", "a small blue square on the right"}


def test_claims_that_describe_held_out_scenes_are_recognized():
    """A full claim is on the same side of the split as its scene; without a size it has no single meaning."""
    rng = random.Random(3)
    for held_out in (True, False):
        scene = random_scene(rng, held_out=held_out)
        claim = full_claim(scene)
        assert describes_held_out(claim) is held_out is is_held_out(scene)
        assert not describes_held_out(replace(claim, first=replace(claim.first, size=None)))
