"""MMEB, from Parquet and JSON Lines files with the published fields."""

from __future__ import annotations

import json
import sys

import pytest
from tests.unit.evaluation.stages import write_picture

from retllm.errors import BenchmarkUnreadable
from retllm.evaluation.benchmarks import LOADERS
from retllm.evaluation.benchmarks.mmeb import GROUPS

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

CLASSES = ["red", "green", "blue"]
CLASSIFICATION = [
    {
        "qry_text": "<|image_1|>\nRepresent the given image for classification\n",
        "qry_img_path": f"ImageNet-1K/{colour}.jpg",
        "tgt_text": [colour, *(other for other in CLASSES if other != colour)],
        "tgt_img_path": ["", "", ""],
    }
    for colour in CLASSES
]
RETRIEVAL = [
    {
        "qry_text": "Find me an everyday image that matches the given caption: a red wall.\n",
        "qry_img_path": "",
        "tgt_text": ["<|image_1|>\nRepresent the given image.\n"] * 2,
        "tgt_img_path": ["MSCOCO_t2i/1.jpg", "MSCOCO_t2i/2.jpg"],
    }
]


@pytest.fixture
def data(tmp_path):
    (tmp_path / "ImageNet-1K").mkdir()
    parquet.write_table(pa.Table.from_pylist(CLASSIFICATION), tmp_path / "ImageNet-1K" / "test-00000-of-00001.parquet")
    (tmp_path / "MSCOCO_t2i.jsonl").write_text("".join(json.dumps(row) + "\n" for row in RETRIEVAL))
    for colour in CLASSES:
        write_picture(tmp_path / "images" / "ImageNet-1K" / f"{colour}.jpg", colour)
    for name in ("1", "2"):
        write_picture(tmp_path / "images" / "MSCOCO_t2i" / f"{name}.jpg", "red")
    return tmp_path


def tasks_of(data):
    return {task.name: task for task in LOADERS["mmeb"](data).sections["datasets"]}


def test_every_available_data_set_is_a_task_of_its_group(data):
    assert {name: task.group for name, task in tasks_of(data).items()} == {
        "ImageNet-1K": "classification",
        "MSCOCO_t2i": "retrieval",
    }
    assert {group: len(names) for group, names in GROUPS.items()} == {
        "classification": 10, "vqa": 10, "retrieval": 12, "grounding": 4,
    }  # fmt: skip


def test_the_first_target_of_a_row_is_right_among_the_targets_of_the_row(data):
    task = tasks_of(data)["ImageNet-1K"]
    assert len(task.candidates) == 3
    for colour, right, among in zip(CLASSES, task.right, task.among, strict=True):
        assert [task.candidates[place].text for place in right] == [colour]
        assert sorted(task.candidates[place].text for place in among) == sorted(CLASSES)


def test_the_right_target_has_no_fixed_position(tmp_path):
    """It is the first in every row of the file, but must not win ties because of that."""
    rows = [
        {
            "qry_text": f"query {n}",
            "qry_img_path": "",
            "tgt_text": [f"right {n}", f"wrong {n}"],
            "tgt_img_path": ["", ""],
        }
        for n in range(64)
    ]
    (tmp_path / "GQA.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = tasks_of(tmp_path)["GQA"]
    first = sum(among[0] in right for right, among in zip(task.right, task.among, strict=True))
    assert 16 <= first <= 48


def test_a_query_with_picture_and_text_has_both_without_the_placeholder(data):
    query = tasks_of(data)["ImageNet-1K"].queries[2]
    assert query.text == "Represent the given image for classification"
    assert query.picture.rgb().getpixel((0, 0))[2] > 200


def test_a_text_query_can_have_targets_with_picture_and_text(data):
    task = tasks_of(data)["MSCOCO_t2i"]
    assert task.queries[0].picture is None
    assert [item.text for item in task.candidates] == ["Represent the given image."] * 2
    assert all(item.picture is not None for item in task.candidates)


def test_the_texts_of_targets_can_be_one_empty_string(tmp_path):
    row = {"qry_text": "a", "qry_img_path": "", "tgt_text": "", "tgt_img_path": ["one.jpg", "two.jpg"]}
    (tmp_path / "NIGHTS.jsonl").write_text(json.dumps(row) + "\n")
    for name in ("one", "two"):
        write_picture(tmp_path / "images" / f"{name}.jpg")
    task = tasks_of(tmp_path)["NIGHTS"]
    assert [item.text for item in task.candidates] == [None, None]


def test_the_error_for_a_missing_picture_names_its_row(data):
    (data / "images/ImageNet-1K/green.jpg").unlink()
    with pytest.raises(BenchmarkUnreadable, match=r"test-00000-of-00001\.parquet: row 1: the picture .*green\.jpg"):
        LOADERS["mmeb"](data)


def test_the_error_for_a_folder_without_data_sets_names_an_expected_path(tmp_path):
    with pytest.raises(BenchmarkUnreadable, match=str(tmp_path / "ImageNet-1K" / "test-00000-of-00001.parquet")):
        LOADERS["mmeb"](tmp_path)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("{", "line 1 is not valid JSON"),
        ('{"qry_text": "a", "qry_img_path": ""}', "'tgt_text'"),
        ('{"qry_text": "a", "qry_img_path": "", "tgt_text": ["a"], "tgt_img_path": []}', "1 target texts and 0"),
        (
            '{"qry_text": "", "qry_img_path": "", "tgt_text": ["a"], "tgt_img_path": [""]}',
            "neither a text nor a picture",
        ),
    ],
)
def test_the_error_for_an_invalid_line_gives_the_reason_and_the_file(tmp_path, line, word):
    (tmp_path / "GQA.jsonl").write_text(line + "\n")
    with pytest.raises(BenchmarkUnreadable, match=word) as caught:
        LOADERS["mmeb"](tmp_path)
    assert str(tmp_path / "GQA.jsonl") in caught.value.message


def test_a_truncated_parquet_file_is_refused(data):
    path = data / "ImageNet-1K" / "test-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BenchmarkUnreadable, match="not valid Parquet"):
        LOADERS["mmeb"](data)


def test_the_error_without_pyarrow_says_how_to_install_it(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BenchmarkUnreadable, match=r"pip install 'retllm-platform\[mmeb\]'"):
        LOADERS["mmeb"](data)
