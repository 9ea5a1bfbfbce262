"""Captions of scenes: the claim of a caption as data, its wording, and whether it is true of a scene."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from retllm.demo.scenes import INVERSE, PLACES, Scene, SceneObject, Single, is_held_out


@dataclass(frozen=True)
class Phrase:
    """An object as named in a caption; with ``size`` None the caption does not state the size."""

    size: str | None
    colour: str
    shape: str

    def __str__(self) -> str:
        return " ".join(word for word in ("a", self.size, self.colour, self.shape) if word)

    def fits(self, scene_object: SceneObject) -> bool:
        """Return whether this phrase is true of ``scene_object``."""
        return (self.colour, self.shape) == scene_object.looks and self.size in (None, scene_object.size)


@dataclass(frozen=True)
class PairClaim:
    """``first`` is in ``relation`` to ``second``; ``extra`` is also in the scene."""

    first: Phrase
    relation: str
    second: Phrase
    extra: Phrase | None = None

    def __str__(self) -> str:
        tail = "" if self.extra is None else f" and {self.extra}"
        return f"{self.first} {self.relation} {self.second}{tail}"


@dataclass(frozen=True)
class PlaceClaim:
    """``first`` is at an absolute place; used only for training."""

    first: Phrase
    place: str

    def __str__(self) -> str:
        return f"{self.first} {self.place}"


Claim = PairClaim | PlaceClaim


def phrase(scene_object: SceneObject, with_size: bool = True) -> Phrase:
    """Return the phrase for an object, with or without its size."""
    return Phrase(scene_object.size if with_size else None, scene_object.colour, scene_object.shape)


def full_claim(scene: Scene) -> PairClaim:
    """Return the claim that states everything; the layout seed decides which object comes first."""
    extra = None if scene.third is None else phrase(scene.third)
    if scene.layout % 2:
        return PairClaim(phrase(scene.second), INVERSE[scene.relation], phrase(scene.first), extra)
    return PairClaim(phrase(scene.first), scene.relation, phrase(scene.second), extra)


def caption(scene: Scene) -> str:
    """Return the scene's caption, for example "a large red circle left of a small blue square"."""
    return str(full_claim(scene))


def random_claim(scene: Scene, rng: random.Random, open_size: float = 0.25, extra_share: float = 0.6) -> PairClaim:
    """Return a true claim in random form: either order, sizes and the third object sometimes left out."""
    extra = scene.third if scene.third is not None and rng.random() < extra_share else None
    claim = PairClaim(
        phrase(scene.first, rng.random() >= open_size),
        scene.relation,
        phrase(scene.second, rng.random() >= open_size),
        None if extra is None else phrase(extra, rng.random() >= open_size),
    )
    if rng.random() < 0.5:
        claim = replace(claim, first=claim.second, relation=INVERSE[claim.relation], second=claim.first)
    return claim


def places_of(scene: Scene) -> tuple[str, str]:
    """Return the absolute places of the first and the second object of a scene."""
    return (PLACES[0], PLACES[1]) if scene.relation == "left of" else (PLACES[2], PLACES[3])


def place_claim(scene: Scene | Single, rng: random.Random, open_size: float = 0.25) -> PlaceClaim:
    """Return a true claim on the absolute place of one object in the picture."""
    with_size = rng.random() >= open_size
    if isinstance(scene, Single):
        return PlaceClaim(phrase(scene.scene_object, with_size), scene.place)
    index = rng.randrange(2)
    return PlaceClaim(phrase(scene.objects[index], with_size), places_of(scene)[index])


def holds(claim: PairClaim, scene: Scene) -> bool:
    """Return whether ``claim`` is completely true of the scene's main pair and third object."""
    if claim.extra is not None and (scene.third is None or not claim.extra.fits(scene.third)):
        return False
    if claim.relation == scene.relation:
        return claim.first.fits(scene.first) and claim.second.fits(scene.second)
    if INVERSE[claim.relation] == scene.relation:
        return claim.first.fits(scene.second) and claim.second.fits(scene.first)
    return False


def unambiguously_false(claim: PairClaim, scene: Scene) -> bool:
    """Return whether ``claim`` is false of the scene, and not ambiguous.

    A claim about the relation of the third object to another one depends on the layout; it counts as ambiguous.
    """
    if holds(claim, scene):
        return False
    third = scene.third
    return third is None or not (claim.first.fits(third) or claim.second.fits(third))


def describes_held_out(claim: PairClaim) -> bool:
    """Return whether a claim that states both sizes describes a held-out meaning."""
    first, second = claim.first, claim.second
    if first.size is None or second.size is None:
        return False
    return is_held_out(
        Scene(
            SceneObject(first.size, first.colour, first.shape),
            SceneObject(second.size, second.colour, second.shape),
            "left of",
        )
    )
