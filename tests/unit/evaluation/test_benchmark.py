"""The common form of benchmarks, and the benchmark of scenes, which needs no folder."""

from __future__ import annotations

import pytest
from tests.unit.evaluation.stages import write_picture

from retllm.demo.claims import caption
from retllm.demo.variants import CATEGORIES, gallery, hard_pairs
from retllm.evaluation.benchmark import picture_item, read_through_copies, text_item
from retllm.evaluation.benchmarks import make_scenes


def test_the_key_of_an_item_depends_on_its_content(tmp_path):
    assert text_item("a").key == text_item("a").key != text_item("b").key
    first = picture_item(write_picture(tmp_path / "one" / "a.png", "red"), "a.png")
    moved = picture_item(write_picture(tmp_path / "two" / "a.png", "red"), "a.png")
    assert first.key == moved.key
    (tmp_path / "two" / "a.png").write_bytes(b"other")
    assert picture_item(tmp_path / "two" / "a.png", "a.png").key != first.key


def test_scenes_search_pictures_by_caption_and_captions_by_picture():
    sections = make_scenes(families=2, pairs=0, seed=5).sections
    (t2i,), (i2t,) = sections["t2i"], sections["i2t"]
    captions = [caption(scene) for family in gallery(2, 5) for scene in family]
    assert [item.text for item in t2i.queries] == [item.text for item in i2t.candidates] == captions
    assert t2i.right == i2t.right == [frozenset({place}) for place in range(16)]
    assert t2i.candidates[0].picture.rgb().size == (256, 256)
    assert not sections["choice"]


def test_scenes_have_a_task_for_each_category_of_hard_pairs():
    tasks = make_scenes(families=1, pairs=3, seed=5).sections["choice"]
    assert [task.name for task in tasks] == list(CATEGORIES)
    for task in tasks:
        true = [task.candidates[min(right)].text for right in task.right]
        assert true == [str(pair.true) for pair in hard_pairs(task.name, 3, 5)]


def test_pictures_of_different_seeds_are_different_items():
    keys = {item.key for seed in (5, 6) for item in make_scenes(1, 0, seed).sections["t2i"][0].candidates}
    assert len(keys) == 16


def test_pictures_can_be_read_through_working_copies_and_are_then_other_items():
    (task,) = make_scenes(1, 0, 5).sections["t2i"]
    read = read_through_copies(task, 128)
    assert [item.text for item in read.queries] == [item.text for item in task.queries]
    assert read.right == task.right
    for copy, original in zip(read.candidates, task.candidates, strict=True):
        assert copy.key != original.key
        assert copy.picture.key != original.picture.key
        assert copy.picture.rgb().size == (128, 128)
    small = read_through_copies(task, 1600).candidates[0].picture.rgb()
    assert small.tobytes() == task.candidates[0].picture.rgb().tobytes(), "it needs no copy"


@pytest.mark.parametrize("limit", [None, 16, 99])
def test_a_limit_of_at_least_the_number_of_queries_changes_nothing(limit):
    (task,) = make_scenes(2, 0, 5).sections["t2i"]
    assert task.limited(limit, 1) is task


def test_a_limit_draws_queries_by_seed_and_keeps_all_candidates():
    (task,) = make_scenes(2, 0, 5).sections["t2i"]
    drawn = task.limited(5, seed=1)
    assert len(drawn.queries) == 5
    assert drawn.candidates is task.candidates
    assert [drawn.candidates[min(right)] for right in drawn.right] == [
        task.candidates[task.queries.index(query)] for query in drawn.queries
    ]
    assert task.limited(5, seed=1).queries == drawn.queries != task.limited(5, seed=2).queries
