"""Hard variants: each changes exactly what its category says, and makes the caption false for the picture."""

from __future__ import annotations

from collections import Counter

import pytest

from retllm.demo.claims import caption, full_claim, holds, unambiguously_false
from retllm.demo.scenes import COLOURS, RELATIONS, SHAPES, SIZES, is_held_out
from retllm.demo.variants import CATEGORIES, FAMILY_SIZE, gallery, hard_pairs

SEED = 11


def words(claim):
    """The caption's words, with each relation as one word."""
    text = str(claim)
    for relation in RELATIONS:
        text = text.replace(f" {relation} ", f" {relation.replace(' ', '-')} ")
    return text.split()


def difference(pair):
    """Words only in the true, and words only in the false caption, as sorted lists."""
    true, false = Counter(words(pair.true)), Counter(words(pair.false))
    return sorted((true - false).elements()), sorted((false - true).elements())


@pytest.mark.parametrize("category", CATEGORIES)
def test_variants_are_false_and_true_captions_are_true_for_the_picture(category):
    """The scenes are held out, and the pairs are the same for the same seed."""
    pairs = hard_pairs(category, 60, SEED)
    assert pairs == hard_pairs(category, 60, SEED)
    assert pairs != hard_pairs(category, 60, SEED + 1)
    for pair in pairs:
        assert is_held_out(pair.scene)
        assert holds(pair.true, pair.scene)
        assert unambiguously_false(pair.false, pair.scene)


@pytest.mark.parametrize(
    ("category", "vocabularies"),
    [
        ("replace_object", [set(SHAPES)]),
        ("replace_attribute", [set(COLOURS), set(SIZES)]),
        ("replace_relation", [{relation.replace(" ", "-") for relation in RELATIONS}]),
    ],
)
def test_a_replacement_replaces_one_word_by_another_of_the_same_kind(category, vocabularies):
    """One word out, one word in, at the same place."""
    for pair in hard_pairs(category, 60, SEED):
        out, into = difference(pair)
        assert len(out) == len(into) == 1
        assert any(out[0] in kind and into[0] in kind for kind in vocabularies)
        assert len(words(pair.true)) == len(words(pair.false))


@pytest.mark.parametrize("category", ["swap_object", "swap_attribute"])
def test_a_swap_uses_the_same_words(category):
    """A bag of words can't tell the two captions apart."""
    for pair in hard_pairs(category, 60, SEED):
        assert difference(pair) == ([], [])
        assert str(pair.true) != str(pair.false)


def test_swaps_exchange_the_objects_or_one_attribute():
    """Whole objects are exchanged, or one attribute is exchanged while the shapes stay."""
    for pair in hard_pairs("swap_object", 60, SEED):
        assert (pair.false.first, pair.false.second) == (pair.true.second, pair.true.first)
        assert pair.false.relation == pair.true.relation
    for pair in hard_pairs("swap_attribute", 60, SEED):
        assert (pair.false.first.shape, pair.false.second.shape) == (pair.true.first.shape, pair.true.second.shape)
        changed = [
            field for field in ("size", "colour") if getattr(pair.true.first, field) != getattr(pair.false.first, field)
        ]
        assert len(changed) == 1


def test_an_added_object_is_not_in_the_picture():
    """The false caption is the true one with one more object."""
    for pair in hard_pairs("add_object", 60, SEED):
        assert str(pair.false).startswith(f"{pair.true} and a ")
        assert not any(pair.false.extra.fits(scene_object) for scene_object in pair.scene.objects)


def test_an_added_attribute_is_wrong():
    """The false caption is the true one with one more size."""
    for pair in hard_pairs("add_attribute", 60, SEED):
        out, into = difference(pair)
        assert out == []
        assert len(into) == 1
        assert into[0] in SIZES


def test_members_of_a_family_differ_in_one_thing_and_each_caption_fits_one_picture():
    """A family has eight held-out members; no caption of the gallery is true for a second picture."""
    families = gallery(16, SEED)
    scenes = [scene for members in families for scene in members]
    assert {len(members) for members in families} == {FAMILY_SIZE}
    assert all(is_held_out(scene) for scene in scenes)
    assert len({scene.meaning for scene in scenes}) == len(scenes) == len({caption(scene) for scene in scenes})
    for scene in scenes:
        assert [other for other in scenes if holds(full_claim(scene), other)] == [scene]
    for members in families:
        base = members[0]
        for member in members[1:]:
            same_words = _bag(member) == _bag(base)
            replaced = sum((_bag(base) - _bag(member)).values())
            assert same_words or replaced == 1


def _bag(scene):
    return Counter(
        word for scene_object in scene.objects for word in (scene_object.size, scene_object.colour, scene_object.shape)
    )


def test_several_members_of_a_family_have_the_same_bag_of_words():
    """On average at least three members of eight are rearrangements of one bag of words."""
    families = gallery(32, SEED)
    rearranged = [sum(_bag(member) == _bag(members[0]) for member in members) for members in families]
    assert sum(rearranged) / len(rearranged) >= 3


def test_a_gallery_is_reproducible_by_seed():
    """The same seed gives the same gallery, another seed gives another one."""
    assert gallery(4, SEED) == gallery(4, SEED)
    assert gallery(4, SEED) != gallery(4, SEED + 1)
