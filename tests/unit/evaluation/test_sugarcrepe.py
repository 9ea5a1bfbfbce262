"""SugarCrepe, from files in the published format."""

from __future__ import annotations

import json

import pytest
from tests.unit.evaluation.stages import write_picture

from retllm.errors import BenchmarkUnreadable
from retllm.evaluation.benchmarks import LOADERS

PARTS = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")


@pytest.fixture
def crepe(tmp_path):
    for part in PARTS:
        entries = {
            str(number): {
                "filename": f"00000000{number}.jpg",
                "caption": f"A red thing ({part} {number}).",
                "negative_caption": f"A blue thing ({part} {number}).",
            }
            for number in range(3)
        }
        (tmp_path / f"{part}.json").write_text(json.dumps(entries))
    for number in range(3):
        write_picture(tmp_path / "val2017" / f"00000000{number}.jpg", "red")
    return tmp_path


def test_each_part_is_a_task_of_choices_between_two_captions(crepe):
    tasks = {task.name: task for task in LOADERS["sugarcrepe"](crepe).sections["choice"]}
    assert sorted(tasks) == sorted(PARTS)
    assert {name: task.group for name, task in tasks.items()} == {name: name.split("_")[0] for name in PARTS}
    for name, task in tasks.items():
        assert task.kind == "choice"
        for number, (right, among) in enumerate(zip(task.right, task.among, strict=True)):
            (true,) = right
            (false,) = set(among) - right
            assert task.candidates[true].text == f"A red thing ({name} {number})."
            assert task.candidates[false].text == f"A blue thing ({name} {number})."


def test_the_true_caption_is_alternately_first_and_second(crepe):
    for task in LOADERS["sugarcrepe"](crepe).sections["choice"]:
        assert [among.index(min(right)) for right, among in zip(task.right, task.among, strict=True)] == [0, 1, 0]


def test_the_files_can_have_the_layout_of_the_original_repository(crepe):
    (crepe / "data").mkdir()
    for part in PARTS:
        (crepe / f"{part}.json").rename(crepe / "data" / f"{part}.json")
    (crepe / "data/coco/images").mkdir(parents=True)
    (crepe / "val2017").rename(crepe / "data/coco/images/val2017")
    assert len(LOADERS["sugarcrepe"](crepe).sections["choice"]) == 7


def test_the_error_for_a_missing_part_names_the_file(crepe):
    (crepe / "swap_obj.json").unlink()
    with pytest.raises(BenchmarkUnreadable, match=r"swap_obj\.json does not exist: it was expected at"):
        LOADERS["sugarcrepe"](crepe)


def test_the_error_for_missing_pictures_names_a_path_in_val2017(crepe):
    for picture in (crepe / "val2017").iterdir():
        picture.unlink()
    with pytest.raises(BenchmarkUnreadable, match=str(crepe / "val2017" / "000000000.jpg")):
        LOADERS["sugarcrepe"](crepe)


@pytest.mark.parametrize("content", ["[]", "{}", '{"0": {"filename": "000000000.jpg", "caption": "A red thing."}}'])
def test_the_error_for_an_invalid_part_names_the_file(crepe, content):
    (crepe / "add_att.json").write_text(content)
    with pytest.raises(BenchmarkUnreadable, match=r"add_att\.json"):
        LOADERS["sugarcrepe"](crepe)
