"""Flickr30k and COCO, from files in the format of Karpathy's splits."""

from __future__ import annotations

import json

import pytest
from tests.unit.evaluation.stages import write_picture

from retllm.errors import BenchmarkUnreadable
from retllm.evaluation.benchmarks import LOADERS


def sentence(number: int, picture: int, raw: str) -> dict:
    return {"tokens": raw.lower().rstrip(" .").split(), "raw": raw, "imgid": picture, "sentid": number}


def entry(number: int, filename: str, split: str, captions: list[str], **more: object) -> dict:
    ids = [100 * number + place for place in range(len(captions))]
    sentences = [sentence(one, number, raw) for one, raw in zip(ids, captions, strict=True)]
    return {"sentids": ids, "imgid": number, "sentences": sentences, "split": split, "filename": filename, **more}


def five(word: str) -> list[str]:
    return [f"A {word} thing, said in way {way} ." for way in range(5)]


@pytest.fixture
def flickr(tmp_path):
    images = [
        entry(0, "1000092795.jpg", "train", five("white")),
        entry(1, "1007129816.jpg", "test", five("red")),
        entry(2, "1009434119.jpg", "test", five("blue")),
        entry(3, "101362133.jpg", "val", five("green")),
    ]
    (tmp_path / "dataset_flickr30k.json").write_text(json.dumps({"images": images, "dataset": "flickr30k"}))
    write_picture(tmp_path / "flickr30k-images" / "1007129816.jpg", "red")
    write_picture(tmp_path / "flickr30k-images" / "1009434119.jpg", "blue")
    return tmp_path


def test_flickr30k_uses_the_test_split_with_five_captions_per_picture(flickr):
    sections = LOADERS["flickr30k"](flickr).sections
    (t2i,), (i2t,) = sections["t2i"], sections["i2t"]
    assert [query.text for query in t2i.queries] == five("red") + five("blue")
    assert [item.picture.rgb().size for item in t2i.candidates] == [(8, 8), (8, 8)]
    assert t2i.right == [frozenset({0})] * 5 + [frozenset({1})] * 5
    assert i2t.right == [frozenset(range(5)), frozenset(range(5, 10))]
    assert (i2t.queries, i2t.candidates) == (t2i.candidates, t2i.queries)


def test_the_splits_can_be_in_the_folder_of_their_archive(flickr):
    (flickr / "caption_datasets").mkdir()
    (flickr / "dataset_flickr30k.json").rename(flickr / "caption_datasets" / "dataset_flickr30k.json")
    assert len(LOADERS["flickr30k"](flickr).sections["t2i"][0].queries) == 10


def test_coco_uses_only_five_captions_per_picture(tmp_path):
    more = {"filepath": "val2014", "cocoid": 391895}
    images = [
        entry(0, "COCO_val2014_000000391895.jpg", "test", [*five("red"), "A sixth caption."], **more),
        entry(1, "COCO_val2014_000000060623.jpg", "restval", five("blue"), filepath="val2014", cocoid=60623),
    ]
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    write_picture(tmp_path / "images" / "val2014" / "COCO_val2014_000000391895.jpg")
    (t2i,) = LOADERS["coco"](tmp_path).sections["t2i"]
    assert [query.text for query in t2i.queries] == five("red")


def test_the_error_for_a_missing_folder_names_the_expected_file(tmp_path):
    with pytest.raises(BenchmarkUnreadable) as caught:
        LOADERS["flickr30k"](tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in caught.value.message
    assert "dataset_flickr30k.json" in caught.value.message


def test_the_error_for_a_missing_file_names_its_path_and_its_source(tmp_path):
    with pytest.raises(BenchmarkUnreadable) as caught:
        LOADERS["coco"](tmp_path)
    assert f"expected at {tmp_path / 'dataset_coco.json'}" in caught.value.message
    assert "caption_datasets.zip" in caught.value.message


def test_the_error_for_missing_pictures_has_their_number_and_the_first_path(flickr):
    gone = flickr / "flickr30k-images" / "1009434119.jpg"
    gone.unlink()
    with pytest.raises(BenchmarkUnreadable) as caught:
        LOADERS["flickr30k"](flickr)
    assert caught.value.message.startswith(f"Pictures of the benchmark are missing: 1, the first at {gone}")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("{not json", "not valid JSON"),
        ('{"pictures": []}', "'images'"),
        ('{"images": [{"split": "train"}]}', "'test'"),
        ('{"images": [{"split": "test", "sentences": []}]}', "'filename'"),
        ('{"images": [{"filename": "a.jpg"}]}', "'split'"),
    ],
)
def test_the_error_for_a_file_in_another_format_names_the_file(flickr, content, word):
    (flickr / "dataset_flickr30k.json").write_text(content)
    with pytest.raises(BenchmarkUnreadable, match=word) as caught:
        LOADERS["flickr30k"](flickr)
    assert str(flickr / "dataset_flickr30k.json") in caught.value.message


def test_a_damaged_picture_raises_an_error_when_it_is_opened(flickr):
    (flickr / "flickr30k-images" / "1007129816.jpg").write_bytes(b"\xff\xd8\xff no picture")
    picture = LOADERS["flickr30k"](flickr).sections["i2t"][0].queries[0]
    with pytest.raises(BenchmarkUnreadable, match=r"1007129816\.jpg can't be decoded"):
        picture.picture.rgb()
