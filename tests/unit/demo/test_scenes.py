"""The procedural scenes are deterministic, drawn correctly, and split strictly into held-out and training scenes."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from retllm.demo.scenes import (
    COLOURS,
    EDGE,
    PLACES,
    Scene,
    SceneObject,
    Single,
    is_held_out,
    random_scene,
    random_single,
    render,
    well_formed,
)

RED_CIRCLE = SceneObject("large", "red", "circle")
BLUE_SQUARE = SceneObject("large", "blue", "square")


def centre_of(picture, colour):
    """Mean (x, y) of the pixels nearer to ``colour`` than to anything else, in units of the picture's edge."""
    pixels = np.asarray(picture, dtype=float)
    names = [*COLOURS, "background"]
    palette = np.array([*COLOURS.values(), (234, 234, 234)], dtype=float)
    nearest = ((pixels[:, :, None] - palette) ** 2).sum(-1).argmin(-1)
    rows, columns = np.nonzero(nearest == names.index(colour))
    return columns.mean() / picture.width, rows.mean() / picture.height


def test_the_same_seed_gives_the_same_scenes_and_pixels():
    """Two generators with the same seed agree in every scene and pixel; another seed gives other scenes."""
    once = [random_scene(random.Random(7), held_out=True) for _ in range(3)]
    again = [random_scene(random.Random(7), held_out=True) for _ in range(3)]
    assert once == again
    assert render(once[0]).tobytes() == render(again[0]).tobytes()
    assert random_scene(random.Random(8), held_out=True) != once[0]


def test_another_layout_gives_another_picture_with_the_same_meaning():
    """The layout changes pixels, but neither the meaning nor the side of the split."""
    scene = Scene(RED_CIRCLE, BLUE_SQUARE, "left of", layout=1)
    other = replace(scene, layout=2)
    assert scene.meaning == other.meaning
    assert render(scene).tobytes() != render(other).tobytes()
    assert is_held_out(scene) == is_held_out(other)


@pytest.mark.parametrize("edge", [EDGE, 256])
@pytest.mark.parametrize("layout", range(12))
def test_the_picture_shows_the_relation(edge, layout):
    """ "left of" and "above" are where a reader would look for them, in every layout and size."""
    beside = render(Scene(RED_CIRCLE, BLUE_SQUARE, "left of", layout=layout), edge)
    above = render(Scene(RED_CIRCLE, BLUE_SQUARE, "above", layout=layout), edge)
    assert beside.size == (edge, edge)
    red, blue = centre_of(beside, "red"), centre_of(beside, "blue")
    assert blue[0] - red[0] > 0.3
    assert abs(blue[1] - red[1]) < 0.2
    red, blue = centre_of(above, "red"), centre_of(above, "blue")
    assert blue[1] - red[1] > 0.3
    assert abs(blue[0] - red[0]) < 0.2


@pytest.mark.parametrize("place", PLACES)
def test_a_single_object_is_at_its_place(place):
    """The place of a single object is a place in the picture."""
    x, y = centre_of(render(Single(RED_CIRCLE, place, layout=3)), "red")
    assert {
        "on the left": x < 0.4,
        "on the right": x > 0.6,
        "at the top": y < 0.4,
        "at the bottom": y > 0.6,
    }[place]


def test_held_out_and_training_meanings_are_disjoint():
    """No meaning is on both sides, and about one in eight is held out."""
    rng = random.Random(1)
    held_out = {random_scene(rng, held_out=True).meaning for _ in range(2000)}
    training = {random_scene(rng, held_out=False).meaning for _ in range(2000)}
    assert not held_out & training
    anything = [Scene(*(SceneObject(*scene_object) for scene_object in objects), "above") for objects in _all_pairs()]
    share = np.mean([is_held_out(scene) for scene in anything])
    assert 0.06 < share < 0.2


def _all_pairs():
    rng = random.Random(2)
    for _ in range(3000):
        first, second = random_single(rng).scene_object, random_single(rng).scene_object
        yield (first.size, first.colour, first.shape), (second.size, second.colour, second.shape)


def test_rearranged_scenes_stay_on_their_side_of_the_split():
    """Swapping objects, attributes or the relation of a held-out scene gives a held-out scene."""
    rng = random.Random(3)
    for _ in range(200):
        scene = random_scene(rng, held_out=True)
        first, second = scene.first, scene.second
        swapped = replace(scene, first=second, second=first, relation="above")
        recoloured = replace(
            scene,
            first=replace(first, colour=second.colour),
            second=replace(second, colour=first.colour),
        )
        assert is_held_out(swapped)
        assert is_held_out(recoloured)


def test_no_two_objects_of_a_scene_have_the_same_colour_and_shape():
    """So every phrase of a caption refers to exactly one object."""
    rng = random.Random(4)
    assert all(well_formed(random_scene(rng, held_out=False, third_share=1.0)) for _ in range(300))
    assert not well_formed(Scene(RED_CIRCLE, replace(RED_CIRCLE, size="small"), "above"))
