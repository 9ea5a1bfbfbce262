"""Training data of the small multimodal model: pictures, questions about them, and the right answers.

Held-out scenes are neither drawn nor described by false captions, so that the model cannot learn that their captions
are always false.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from PIL import Image

from retllm.demo.claims import (
    Claim,
    PairClaim,
    PlaceClaim,
    describes_held_out,
    place_claim,
    places_of,
    random_claim,
)
from retllm.demo.scenes import COLOURS, PLACES, SHAPES, SIZES, Scene, Single, random_scene, random_single, render
from retllm.demo.variants import negative
from retllm_tools.vocabulary import DESCRIBE, question_template

#: sampling weight of each kind of false caption; None is the true caption of another scene
_WEIGHTS: dict[str | None, float] = {
    "replace_object": 1.5,
    "replace_attribute": 1.5,
    "replace_relation": 1.5,
    "swap_object": 1.5,
    "swap_attribute": 1.5,
    "add_object": 1.0,
    "add_attribute": 0.8,
    None: 0.3,
}


@dataclass(frozen=True)
class Mix:
    """The composition of a lesson in judging.

    Attributes:
        singles: share of pictures with a single object, at an absolute place.
        places: on the other pictures, share of pairs about the absolute place of one of the objects. They teach
            "left of": a model of this size does not learn from relations alone where an object is.
        differ: the property in which such a pair differs, chosen uniformly: "place", "size", "colour" or "shape".
        swaps: factor for the weight of false captions that swap the objects or reverse the relation.
    """

    singles: float
    places: float
    differ: tuple[str, ...]
    swaps: float = 1.0


@dataclass(frozen=True)
class Lesson:
    """Pictures with their questions and answers, in order; each picture has the same number."""

    pictures: list[Image.Image]
    questions: list[str]
    answers: list[str]


@cache
def _question() -> str:
    return question_template("text->image")


def ask(caption: str) -> str:
    """Return the question of the platform about a picture and a caption."""
    return _question().replace("{query}", caption)


def around() -> tuple[str, str]:
    """Return the text of the question before and after the caption."""
    opening, ending = _question().split("{query}")
    return opening, ending


def describe(rng: random.Random, pictures: int, each: int, singles: float = 0.3) -> Lesson:
    """Return a lesson in captioning: ``each`` random captions for each picture."""
    lesson = Lesson([], [], [])
    for _ in range(pictures):
        scene = random_single(rng) if rng.random() < singles else random_scene(rng, held_out=False)
        lesson.pictures.append(render(scene))
        for _ in range(each):
            placed = isinstance(scene, Single) or rng.random() < 0.3
            claim: Claim = place_claim(scene, rng) if placed else random_claim(_scene(scene), rng)
            lesson.questions.append(DESCRIBE)
            lesson.answers.append(str(claim))
    return lesson


def judge(rng: random.Random, pictures: int, pairs: int, mix: Mix) -> Lesson:
    """Return a True/False lesson: ``pairs`` true captions for each picture, each with a false one that differs once."""
    lesson = Lesson([], [], [])
    for index in range(pictures):
        alone = index < round(mix.singles * pictures)
        scene = random_single(rng) if alone else random_scene(rng, held_out=False)
        lesson.pictures.append(render(scene))
        for _ in range(pairs):
            placed = alone or rng.random() < mix.places
            true, false = _place_pair(scene, rng, mix) if placed else _claim_pair(_scene(scene), rng, mix)
            lesson.questions.extend((ask(str(true)), ask(str(false))))
            lesson.answers.extend(("True", "False"))
    return lesson


def _scene(scene: Scene | Single) -> Scene:
    assert isinstance(scene, Scene)
    return scene


def _claim_pair(scene: Scene, rng: random.Random, mix: Mix) -> tuple[PairClaim, PairClaim]:
    more = {"swap_object": mix.swaps, "replace_relation": mix.swaps}
    weights = [weight * more.get(category or "", 1.0) for category, weight in _WEIGHTS.items()]
    while True:
        (category,) = rng.choices(list(_WEIGHTS), weights)
        claim = random_claim(
            scene,
            rng,
            open_size=0.6 if category == "add_attribute" else 0.2,
            extra_share=0.0 if category == "add_object" else 0.7,
        )
        false: PairClaim | None
        if category is None:
            false = random_claim(random_scene(rng, held_out=False), rng)
            false = None if _may_be_true(false, scene) else false
        else:
            false = negative(category, claim, scene, rng)
        if false is not None and not describes_held_out(false):
            return claim, false


def _may_be_true(claim: PairClaim, scene: Scene) -> bool:
    return all(any(side.fits(scene_object) for scene_object in scene.objects) for side in (claim.first, claim.second))


def _place_pair(scene: Scene | Single, rng: random.Random, mix: Mix) -> tuple[PlaceClaim, PlaceClaim]:
    claim = place_claim(scene, rng)
    while True:
        false = _misplaced(claim, scene, rng, mix)
        if false != claim and not _place_holds(false, scene):
            return claim, false


def _misplaced(claim: PlaceClaim, scene: Scene | Single, rng: random.Random, mix: Mix) -> PlaceClaim:
    side = claim.first
    kind = rng.choice(mix.differ)
    if kind == "place":
        return replace(claim, place=rng.choice(PLACES if isinstance(scene, Single) else places_of(scene)))
    if kind == "size":
        return replace(claim, first=replace(side, size=rng.choice(SIZES)))
    options: Sequence[str] = tuple(COLOURS) if kind == "colour" else SHAPES
    if isinstance(scene, Scene) and rng.random() < 0.5:
        options = [getattr(scene_object, kind) for scene_object in scene.objects]
    return replace(claim, first=replace(side, **{kind: rng.choice(options)}))


def _place_holds(claim: PlaceClaim, scene: Scene | Single) -> bool:
    if isinstance(scene, Single):
        return claim.first.fits(scene.scene_object) and claim.place == scene.place
    placed = list(zip((scene.first, scene.second), places_of(scene), strict=True))
    if scene.third is not None and claim.first.fits(scene.third):
        return True  # the third object has no defined place, so the claim is not clearly false
    return any(claim.first.fits(scene_object) and claim.place == place for scene_object, place in placed)
