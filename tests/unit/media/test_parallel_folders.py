"""Captions in a folder of their own belong to the pictures in the folder beside it."""

from __future__ import annotations

import pytest
from tests.unit.media.outcomes import Items, reason
from tests.unit.media.samples import as_json, packed, picture
from tests.unit.media.test_sheet_rows import add_all, captions

from retllm.media.ingest import Ingest

ONE, TWO = picture(1), picture(2)


@pytest.mark.parametrize("how", ["together", "ZIP", "later"])
@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("images/cat.png", "texts/cat.txt", b"A cat"),
        ("cat.png", "captions/cat.txt", b"A cat"),
        ("ds/images/1.png", "ds/captions/1.txt", b"A cat"),
        ("ds/images/train/1.png", "ds/labels/train/1.txt", b"A cat"),
        ("train_images/1.png", "train_annotations/1.txt", b"A cat"),
        ("photos/1.png", "annotations/1.json", as_json({"caption": "A cat"})),
    ],
)
def test_a_text_in_a_describing_folder_is_the_caption_of_the_picture_beside(
    ingest: Ingest, items: Items, how: str, name: str, text: str, said: bytes
) -> None:
    if how == "later":
        add_all(ingest, {name: ONE})
    files = {text: said} if how == "later" else {name: ONE, text: said}
    add_all(ingest, {"x.zip": packed(files)} if how == "ZIP" else files)
    assert captions(items) == {name: "A cat"}


def test_archives_are_such_folders_too(ingest: Ingest, items: Items) -> None:
    files = {"images.zip": packed({"images/1.png": ONE}), "texts.zip": packed({"texts/1.txt": b"A cat"})}
    add_all(ingest, files)
    assert captions(items) == {"images/1.png": "A cat"}


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize(
    ("pictures", "text"),
    [
        ({"holiday/1.png": ONE}, "texts/1.txt"),
        ({"images/1.png": ONE}, "poems/1.txt"),
        ({"images/1.png": ONE, "photos/1.png": TWO}, "captions/1.txt"),
        ({"images/train/1.png": ONE}, "labels/val/1.txt"),
    ],
    ids=["another folder", "a folder of texts", "two pictures", "another part"],
)
def test_a_text_that_is_named_like_a_picture_elsewhere_is_refused(
    ingest: Ingest, items: Items, pictures: dict[str, bytes], text: str, later: bool
) -> None:
    if later:
        add_all(ingest, pictures)
    outcomes = add_all(ingest, {text: b"A cat"} if later else pictures | {text: b"A cat"})
    (refused,) = (each for each in outcomes if each.name == text)
    assert "is named like the picture" in reason(refused)
    assert captions(items) == dict.fromkeys(pictures)
    add_all(ingest, {text: b"A cat"}, texts=True)
    assert captions(items) == dict.fromkeys(pictures) | {text: "A cat"}
