"""Hard variants of claims and scenes: SugarCrepe's seven categories, and families of scenes with small differences.

In the categories of SugarCrepe (arXiv 2306.14610), a negative caption differs from the true one by one replaced,
swapped or added object, attribute or relation.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from retllm.demo.claims import PairClaim, Phrase, random_claim, unambiguously_false
from retllm.demo.scenes import (
    COLOURS,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    SceneObject,
    is_held_out,
    random_scene,
    well_formed,
)

FAMILY_SIZE = 8


def _other(options: Sequence[str], present: str, rng: random.Random) -> str:
    return rng.choice([option for option in options if option != present])


def _on_one_side(claim: PairClaim, rng: random.Random, edit: Callable[[Phrase], Phrase]) -> PairClaim:
    if rng.random() < 0.5:
        return replace(claim, first=edit(claim.first))
    return replace(claim, second=edit(claim.second))


def replace_object(claim: PairClaim, _scene: Scene, rng: random.Random) -> PairClaim:
    """Replace a noun: the shape of one object."""
    return _on_one_side(claim, rng, lambda side: replace(side, shape=_other(SHAPES, side.shape, rng)))


def replace_attribute(claim: PairClaim, _scene: Scene, rng: random.Random) -> PairClaim:
    """Replace an adjective: the colour or, if stated, the size of one object."""

    def edit(side: Phrase) -> Phrase:
        if side.size is not None and rng.random() < 0.5:
            return replace(side, size=_other(SIZES, side.size, rng))
        return replace(side, colour=_other(tuple(COLOURS), side.colour, rng))

    return _on_one_side(claim, rng, edit)


def replace_relation(claim: PairClaim, _scene: Scene, rng: random.Random) -> PairClaim:
    """Replace the relation."""
    return replace(claim, relation=_other(RELATIONS, claim.relation, rng))


def swap_object(claim: PairClaim, _scene: Scene, _rng: random.Random) -> PairClaim:
    """Swap the two objects."""
    return replace(claim, first=claim.second, second=claim.first)


def swap_attribute(claim: PairClaim, _scene: Scene, rng: random.Random) -> PairClaim:
    """Swap the colours or, if both are stated, the sizes of the two objects."""
    first, second = claim.first, claim.second
    kinds = [] if first.colour == second.colour else ["colour"]
    if None not in (first.size, second.size) and first.size != second.size:
        kinds.append("size")
    if not kinds:
        return claim
    kind = rng.choice(kinds)
    return replace(
        claim,
        first=replace(first, **{kind: getattr(second, kind)}),
        second=replace(second, **{kind: getattr(first, kind)}),
    )


def add_object(claim: PairClaim, scene: Scene, rng: random.Random) -> PairClaim:
    """Add an object that is not in the picture, unless ``claim`` already names a third one."""
    if claim.extra is not None:
        return claim
    extra = Phrase(rng.choice((None, *SIZES)), rng.choice(tuple(COLOURS)), rng.choice(SHAPES))
    if any((extra.colour, extra.shape) == scene_object.looks for scene_object in scene.objects):
        return claim
    return replace(claim, extra=extra)


def add_attribute(claim: PairClaim, scene: Scene, rng: random.Random) -> PairClaim:
    """Add a wrong size to an object without a stated size."""
    sizes = {scene_object.looks: scene_object.size for scene_object in scene.objects}

    def wrong(side: Phrase) -> Phrase:
        return replace(side, size=_other(SIZES, sizes[side.colour, side.shape], rng))

    if claim.first.size is None and (claim.second.size is not None or rng.random() < 0.5):
        return replace(claim, first=wrong(claim.first))
    if claim.second.size is None:
        return replace(claim, second=wrong(claim.second))
    return claim


Edit = Callable[[PairClaim, Scene, random.Random], PairClaim]

CATEGORIES: dict[str, Edit] = {
    "replace_object": replace_object,
    "replace_attribute": replace_attribute,
    "replace_relation": replace_relation,
    "swap_object": swap_object,
    "swap_attribute": swap_attribute,
    "add_object": add_object,
    "add_attribute": add_attribute,
}


def negative(category: str, claim: PairClaim, scene: Scene, rng: random.Random) -> PairClaim | None:
    """Return a variant of the true ``claim`` in this category that is unambiguously false of the scene.

    Return None if the claim has no such variant (nothing to swap, no size left out, ...).
    """
    variant = CATEGORIES[category](claim, scene, rng)
    if variant == claim or not unambiguously_false(variant, scene):
        return None
    if (variant.first.colour, variant.first.shape) == (variant.second.colour, variant.second.shape):
        return None
    return variant


@dataclass(frozen=True)
class HardPair:
    """A scene, a true claim about it, and a false one with a single difference."""

    scene: Scene
    true: PairClaim
    false: PairClaim


def hard_pairs(category: str, count: int, seed: int) -> list[HardPair]:
    """Return ``count`` pairs of one category on held-out scenes, generated from ``seed``."""
    rng = random.Random(f"{category}/{seed}")
    pairs: list[HardPair] = []
    while len(pairs) < count:
        scene = random_scene(rng, held_out=True)
        open_size = 0.6 if category == "add_attribute" else 0.0
        claim = random_claim(scene, rng, open_size=open_size, extra_share=0.0 if category == "add_object" else 1.0)
        false = negative(category, claim, scene, rng)
        if false is not None:
            pairs.append(HardPair(scene, claim, false))
    return pairs


def _swapped(scene: Scene, *fields: str) -> Scene:
    first, second = scene.first, scene.second
    return replace(
        scene,
        first=replace(first, **{field: getattr(second, field) for field in fields}),
        second=replace(second, **{field: getattr(first, field) for field in fields}),
    )


def _replacements(scene_object: SceneObject) -> list[SceneObject]:
    colours = [replace(scene_object, colour=colour) for colour in COLOURS if colour != scene_object.colour]
    shapes = [replace(scene_object, shape=shape) for shape in SHAPES if shape != scene_object.shape]
    return [*colours, *shapes, replace(scene_object, size=_opposite(scene_object.size))]


def _opposite(size: str) -> str:
    return SIZES[1 - SIZES.index(size)]


def neighbours(scene: Scene, rng: random.Random) -> list[Scene]:
    """Return held-out scenes with a small difference from ``scene``: first rearrangements, then replacements.

    Rearrangements (swapped objects, swapped attributes, another relation) use the same words, so an encoder that sees
    only a bag of words can't distinguish them.
    """
    other_axis = "above" if scene.relation == "left of" else "left of"
    rearranged = [
        _swapped(scene, "size", "colour", "shape"),
        replace(scene, relation=other_axis),
        _swapped(scene, "colour"),
        _swapped(scene, "size"),
        replace(_swapped(scene, "size", "colour", "shape"), relation=other_axis),
    ]
    replaced = [replace(scene, first=scene_object) for scene_object in _replacements(scene.first)]
    replaced += [replace(scene, second=scene_object) for scene_object in _replacements(scene.second)]
    if scene.third is not None:
        replaced += [replace(scene, third=scene_object) for scene_object in _replacements(scene.third)]
    rng.shuffle(replaced)
    return [near for near in (*rearranged, *replaced) if well_formed(near) and is_held_out(near)]


def family(scene: Scene, taken: set[tuple[object, ...]], rng: random.Random) -> list[Scene] | None:
    """Return ``FAMILY_SIZE`` scenes, ``scene`` and neighbours of it, with meanings that are not in ``taken``.

    Each member has its own layout. Return None if the scene has too few unused neighbours.
    """
    members: dict[tuple[object, ...], Scene] = {}
    for member in (scene, *neighbours(scene, rng)):
        if member.meaning not in taken and len(members) < FAMILY_SIZE:
            members.setdefault(member.meaning, replace(member, layout=rng.getrandbits(32)))
    return list(members.values()) if len(members) == FAMILY_SIZE and scene.meaning in members else None


def gallery(families: int, seed: int) -> list[list[Scene]]:
    """Return ``families`` families of held-out scenes with distinct meanings and captions.

    No caption of the gallery is true of another picture in it.
    """
    rng = random.Random(f"gallery/{seed}")
    taken: set[tuple[object, ...]] = set()
    pairs: set[tuple[object, ...]] = set()
    found: list[list[Scene]] = []
    while len(found) < families:
        members = family(random_scene(rng, held_out=True, third_share=0.1), taken, rng)
        if members is None or any(_pair(member) in pairs for member in members):
            continue
        taken.update(member.meaning for member in members)
        pairs.update(_pair(member) for member in members)
        found.append(members)
    return found


def _pair(scene: Scene) -> tuple[object, ...]:
    """Return the main pair; families don't share pairs, so that a caption is never true of two scenes."""
    return scene.first, scene.relation, scene.second
