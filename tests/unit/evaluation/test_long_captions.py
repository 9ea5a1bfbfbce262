"""ShareGPT4V and Urban1k, from files in the published format."""

from __future__ import annotations

import json

import pytest
from tests.unit.evaluation.stages import write_picture

from retllm.errors import BenchmarkUnreadable
from retllm.evaluation.benchmarks import LOADERS, sharegpt4v

FILE = "share-captioner_coco_lcs_sam_1246k_1107.json"


def turns(number: int, answer: str) -> dict:
    return {
        "id": f"sa_{number}",
        "image": f"sam/images/sa_{number}.jpg",
        "conversations": [
            {"from": "human", "value": "Describe this picture.\n<image>"},
            {"from": "gpt", "value": answer},
        ],
    }


@pytest.fixture
def share(tmp_path):
    entries = [turns(545504, "A red wall.\n\nIt is plain."), turns(545505, "A blue wall."), turns(545506, "Not asked.")]
    (tmp_path / FILE).write_text(json.dumps(entries))
    write_picture(tmp_path / "sam/images/sa_545504.jpg", "red")
    write_picture(tmp_path / "sam/images/sa_545505.jpg", "blue")
    return tmp_path


def test_sharegpt4v_pairs_the_answers_of_the_first_entries_with_their_pictures(share, monkeypatch):
    monkeypatch.setattr(sharegpt4v, "ENTRIES", 2)
    sections = LOADERS["sharegpt4v"](share).sections
    (t2i,), (i2t,) = sections["t2i"], sections["i2t"]
    assert [query.text for query in t2i.queries] == ["A red wall.  It is plain.", "A blue wall."]
    assert t2i.right == i2t.right == [frozenset({0}), frozenset({1})]


def test_sharegpt4v_reads_only_the_first_thousand_entries(tmp_path):
    head = ",".join(json.dumps(turns(number, f"Caption {number}.")) for number in range(1000))
    (tmp_path / FILE).write_text(f"[{head}, this is never read")
    for number in range(1000):
        (tmp_path / "sam/images").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"sam/images/sa_{number}.jpg").write_bytes(b"x")
    (t2i,) = LOADERS["sharegpt4v"](tmp_path).sections["t2i"]
    assert [query.text for query in t2i.queries] == [f"Caption {number}." for number in range(1000)]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{}", "does not begin with a bracket"),
        (json.dumps([turns(545504, "A red wall.")])[:-20], "is truncated"),
        (json.dumps([{"image": "a.jpg"}]), "'conversations'"),
        (json.dumps([{"image": "a.jpg", "conversations": [{"from": "human", "value": "?"}]}]), "no answer"),
        (json.dumps([{"image": "a.jpg", "conversations": [{"from": "gpt", "value": "!"}] * 1}]), "no answer"),
        ("[]", "no entries"),
    ],
)
def test_the_error_for_an_invalid_sharegpt4v_file_names_the_file(tmp_path, text, word):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(BenchmarkUnreadable, match=word) as caught:
        LOADERS["sharegpt4v"](tmp_path)
    assert str(tmp_path / FILE) in caught.value.message


def test_the_error_for_a_missing_sharegpt4v_picture_names_its_path(share, monkeypatch):
    monkeypatch.setattr(sharegpt4v, "ENTRIES", 3)
    with pytest.raises(BenchmarkUnreadable, match=str(share / "sam/images/sa_545506.jpg")):
        LOADERS["sharegpt4v"](share)


@pytest.fixture
def urban(tmp_path):
    for stem, colour in (("1", "red"), ("2", "blue"), ("10", "green")):
        write_picture(tmp_path / "Urban1k" / "image" / f"{stem}.jpg", colour)
        caption = tmp_path / "Urban1k" / "caption" / f"{stem}.txt"
        caption.parent.mkdir(exist_ok=True)
        caption.write_text(f"A {colour} street.\n")
    return tmp_path


@pytest.mark.parametrize("inside", [False, True])
def test_urban1k_pairs_files_with_the_same_stem(urban, inside):
    sections = LOADERS["urban1k"](urban / "Urban1k" if inside else urban).sections
    (t2i,), (i2t,) = sections["t2i"], sections["i2t"]
    assert [query.text for query in t2i.queries] == ["A red street.", "A blue street.", "A green street."]
    assert t2i.candidates[1].picture.rgb().getpixel((0, 0))[2] > 200
    assert t2i.right == i2t.right == [frozenset({place}) for place in range(3)]


def test_the_error_for_an_urban1k_caption_without_a_picture_names_the_picture(urban):
    (urban / "Urban1k/image/10.jpg").unlink()
    with pytest.raises(BenchmarkUnreadable, match=str(urban / "Urban1k/image/10.jpg")):
        LOADERS["urban1k"](urban)


def test_the_error_for_an_empty_urban1k_caption_names_the_file(urban):
    (urban / "Urban1k/caption/2.txt").write_text("\n")
    with pytest.raises(BenchmarkUnreadable, match=r"2\.txt is empty"):
        LOADERS["urban1k"](urban)


def test_the_error_for_urban1k_without_captions_names_the_expected_folder(tmp_path):
    with pytest.raises(BenchmarkUnreadable, match=str(tmp_path / "caption")):
        LOADERS["urban1k"](tmp_path)
