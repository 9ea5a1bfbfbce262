"""Procedural scenes: two or three coloured shapes in a spatial relation, generated from an explicit seed.

A scene has a *meaning* (its objects and their relation) and a *layout* (jitter of places, radii and hues, derived from
the seed ``layout``). Whether a scene is held out depends only on its meaning, so training never uses a held-out
meaning in any layout.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from functools import cached_property

from PIL import Image, ImageDraw

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (235, 200, 30),
    "purple": (140, 50, 170),
    "black": (30, 30, 30),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring")
SIZES = ("small", "large")
RELATIONS = ("left of", "right of", "above", "below")
PLACES = ("on the left", "on the right", "at the top", "at the bottom")
INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

#: one of this many meanings is held out
HELD_OUT_SHARE = 8
#: edge of the default picture in pixels; the input size of the small models
EDGE = 64
_OVERSAMPLING = 4
_RADIUS = {"small": 6.0, "large": 11.0}


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene."""

    size: str
    colour: str
    shape: str

    @property
    def looks(self) -> tuple[str, str]:
        """Colour and shape, unique within a scene."""
        return self.colour, self.shape


@dataclass(frozen=True)
class Scene:
    """``first`` is left of ``second`` (``relation`` "left of") or above it ("above"); ``third`` has no relation."""

    first: SceneObject
    second: SceneObject
    relation: str
    third: SceneObject | None = None
    layout: int = 0

    @cached_property
    def meaning(self) -> tuple[SceneObject, str, SceneObject, SceneObject | None]:
        """The content of the scene, without its layout."""
        return self.first, self.relation, self.second, self.third

    @property
    def objects(self) -> tuple[SceneObject, ...]:
        """The two or three objects."""
        return (self.first, self.second) if self.third is None else (self.first, self.second, self.third)


@dataclass(frozen=True)
class Single:
    """One object at an absolute place; used only for training, never in a gallery."""

    scene_object: SceneObject
    place: str
    layout: int = 0


def random_object(rng: random.Random) -> SceneObject:
    """Return a random object; every property is drawn independently."""
    return SceneObject(rng.choice(SIZES), rng.choice(tuple(COLOURS)), rng.choice(SHAPES))


def well_formed(scene: Scene) -> bool:
    """Return whether no two objects share colour and shape, so that every phrase has one referent."""
    looks = [scene_object.looks for scene_object in scene.objects]
    return len(set(looks)) == len(looks)


def is_held_out(scene: Scene) -> bool:
    """Return whether training must not use the meaning of this scene.

    The hash is over the *sorted* properties of the main pair, so all rearrangements of one bag of words (swapped
    objects, swapped attributes, another relation) are either held out or not. Training never sees a held-out
    combination in any order.
    """
    pair = (scene.first, scene.second)
    bag = "|".join(
        ",".join(sorted(getattr(scene_object, field) for scene_object in pair)) for field in ("size", "colour", "shape")
    )
    digest = hashlib.sha256(bag.encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT_SHARE == 0


def random_scene(rng: random.Random, held_out: bool, third_share: float = 0.25) -> Scene:
    """Return a random scene with a held-out or a training meaning.

    ``third_share`` is the share of scenes with a third object.
    """
    while True:
        third = random_object(rng) if rng.random() < third_share else None
        scene = Scene(
            random_object(rng), random_object(rng), rng.choice(("left of", "above")), third, rng.getrandbits(32)
        )
        if well_formed(scene) and is_held_out(scene) == held_out:
            return scene


def random_single(rng: random.Random) -> Single:
    """Return a random object at one of the four places."""
    return Single(random_object(rng), rng.choice(PLACES), rng.getrandbits(32))


def _pair_centres(scene: Scene, rng: random.Random) -> list[tuple[float, float]]:
    """Return the centres in a 64-pixel frame; computed along and across the axis of the pair, returned as (x, y)."""
    near, far = rng.uniform(14, 20), rng.uniform(44, 50)
    if scene.third is None:
        band = rng.uniform(17, 47)
        across = [band + rng.uniform(-4, 4) for _ in range(2)]
        centres = [(near, across[0]), (far, across[1])]
    else:
        bands = [rng.uniform(14, 17), rng.uniform(47, 50)]
        rng.shuffle(bands)
        centres = [(near, bands[0]), (far, bands[0]), (rng.uniform(15, 49), bands[1])]
    return centres if scene.relation == "left of" else [(y, x) for x, y in centres]


def _single_centre(place: str, rng: random.Random) -> tuple[float, float]:
    near, far, across = rng.uniform(13, 20), rng.uniform(44, 51), rng.uniform(18, 46)
    return {
        "on the left": (near, across),
        "on the right": (far, across),
        "at the top": (across, near),
        "at the bottom": (across, far),
    }[place]


def _draw_object(
    draw: ImageDraw.ImageDraw, scene_object: SceneObject, centre: tuple[float, float], rng: random.Random
) -> None:
    scale = _OVERSAMPLING
    radius = (_RADIUS[scene_object.size] + rng.uniform(-0.8, 0.8)) * scale
    x, y = centre[0] * scale, centre[1] * scale
    red, green, blue = (max(0, min(255, channel + rng.randint(-14, 14))) for channel in COLOURS[scene_object.colour])
    fill = (red, green, blue)
    box = (x - radius, y - radius, x + radius, y + radius)
    if scene_object.shape == "circle":
        draw.ellipse(box, fill=fill)
    elif scene_object.shape == "square":
        edge = radius * 0.88
        draw.rectangle((x - edge, y - edge, x + edge, y + edge), fill=fill)
    elif scene_object.shape == "triangle":
        draw.polygon([(x, y - radius), (x - radius, y + radius * 0.8), (x + radius, y + radius * 0.8)], fill=fill)
    elif scene_object.shape == "cross":
        bar = radius * 0.34
        draw.rectangle((x - radius, y - bar, x + radius, y + bar), fill=fill)
        draw.rectangle((x - bar, y - radius, x + bar, y + radius), fill=fill)
    else:
        draw.ellipse(box, outline=fill, width=max(1, round(radius * 0.38)))


def _laid_out(scene: Scene | Single) -> tuple[int, list[tuple[SceneObject, tuple[float, float]]], random.Random]:
    rng = random.Random(scene.layout)
    shade = rng.randint(222, 246)
    if isinstance(scene, Single):
        return shade, [(scene.scene_object, _single_centre(scene.place, rng))], rng
    return shade, list(zip(scene.objects, _pair_centres(scene, rng), strict=True)), rng


def centres(scene: Scene | Single) -> list[tuple[SceneObject, tuple[float, float]]]:
    """Return each object with its centre (x, y) in a frame of ``EDGE`` x ``EDGE``."""
    return _laid_out(scene)[1]


def render(scene: Scene | Single, edge: int = EDGE) -> Image.Image:
    """Draw the scene as an RGB picture of ``edge`` x ``edge`` pixels; the result is deterministic.

    The scene is drawn at 256 x 256 and resampled, so that every size shows the same picture.
    """
    shade, objects, rng = _laid_out(scene)
    canvas = Image.new("RGB", (EDGE * _OVERSAMPLING,) * 2, (shade, shade, shade))
    draw = ImageDraw.Draw(canvas)
    for scene_object, centre in objects:
        _draw_object(draw, scene_object, centre, rng)
    if canvas.width == edge:
        return canvas
    return canvas.resize((edge, edge), Image.Resampling.BICUBIC)
