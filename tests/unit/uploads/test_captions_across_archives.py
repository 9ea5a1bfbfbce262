"""Captions find pictures in archives by the places of these, and nothing depends on the order of arrival."""

from __future__ import annotations

import hashlib
import io
import itertools
import tarfile
import unicodedata

import pytest
import sqlalchemy as sa
from tests.unit.uploads.conftest import Uploads, packed, picture

from retllm.db.enums import FileStatus
from retllm.db.tables import Item
from retllm.db.uploads import UploadFile

ONE, TWO = picture(1), picture(2)


def sheet(text: str, name: str = "1.png") -> bytes:
    return f"file,caption\n{name},{text}\n".encode()


def items(uploads: Uploads) -> list[Item]:
    with uploads.world.sessions() as session:
        return list(session.scalars(sa.select(Item).order_by(Item.id)))


def captions(uploads: Uploads, files: dict[str, bytes]) -> list[str | None]:
    """The captions of the pictures ONE and TWO, which have the same name."""
    job_id = uploads.upload(files, index=False)
    assert FileStatus.REJECTED not in uploads.statuses(job_id).values()
    by_content = {item.content_sha256: item.text for item in items(uploads)}
    return [by_content[hashlib.sha256(content).hexdigest()] for content in (ONE, TWO)]


@pytest.mark.parametrize(
    "files",
    [
        {
            "x/a.zip": packed({"1.png": ONE}),
            "y/b.zip": packed({"1.png": TWO}),
            "x/captions.csv": sheet("first"),
            "y/captions.csv": sheet("second"),
        },
        {
            "x/1.png": ONE,
            "y/1.png": TWO,
            "x/c.zip": packed({"c.csv": sheet("first")}),
            "y/c.zip": packed({"c.csv": sheet("second")}),
        },
        {
            "train.zip": packed({"1.png": ONE}),
            "val.zip": packed({"1.png": TWO}),
            "captions.csv": b"file,caption\ntrain/1.png,first\nval/1.png,second\n",
        },
        {
            "train.zip": packed({"1.png": ONE}),
            "val.zip": packed({"1.png": TWO}),
            "train.csv": sheet("first"),
            "val.csv": sheet("second"),
        },
        {
            "train2017/1.png": ONE,
            "val2017/1.png": TWO,
            "annotations/captions_train2017.csv": sheet("first"),
            "annotations/captions_val2017.csv": sheet("second"),
        },
        {
            "train_texts.zip": packed({"1.txt": b"first"}),
            "val_texts.zip": packed({"1.txt": b"second"}),
            "train_images.zip": packed({"1.png": ONE}),
            "val_images.zip": packed({"1.png": TWO}),
        },
        {
            "x/1.txt": b"first",
            "y/1.txt": b"second",
            "x/a.zip": packed({"1.png": ONE}),
            "y/b.zip": packed({"1.png": TWO}),
        },
    ],
    ids=["sheets", "sheets inside", "rows name archives", "like archives", "like folders", "texts", "texts beside"],
)
def test_pictures_of_one_name_are_told_apart_by_their_archives(uploads: Uploads, files: dict[str, bytes]) -> None:
    assert captions(uploads, files) == ["first", "second"]


def test_a_text_that_fits_pictures_of_two_archives_is_refused(uploads: Uploads) -> None:
    files = {"t.zip": {"1.txt": b"which"}, "a.zip": {"1.png": ONE}, "b.zip": {"1.png": TWO}}
    job_id = uploads.upload({name: packed(inner) for name, inner in files.items()}, index=False)
    assert uploads.statuses(job_id)["1.txt"] is FileStatus.REJECTED
    assert [item.text for item in items(uploads)] == [None, None]


@pytest.mark.parametrize("names", list(itertools.permutations(["a/1.png", "b/1.png", "a/c.csv", "b/c.csv"]))[::5])
def test_the_order_of_arrival_decides_no_caption(uploads: Uploads, names: tuple[str, ...]) -> None:
    files = {"a/1.png": ONE, "b/1.png": ONE, "a/c.csv": sheet("of a"), "b/c.csv": sheet("of b")}
    uploads.upload({name: files[name] for name in names}, index=False)
    assert [item.text for item in items(uploads)] == ["of a"]


@pytest.mark.parametrize("names", [("a/1.txt", "b/1.txt"), ("b/1.txt", "a/1.txt")])
def test_the_order_of_arrival_decides_no_sidecar(uploads: Uploads, names: tuple[str, ...]) -> None:
    pictures = {"b/1.png": ONE, "a/1.png": ONE}
    uploads.upload(pictures | {name: name.encode() for name in names}, index=False)
    assert [item.text for item in items(uploads)] == ["a/1.txt"]


def tarred(*files: tuple[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


@pytest.mark.parametrize(
    ("pictures", "texts"),
    [
        (("0.zip", "1.zip"), ("0.zip", "1.zip")),
        (("train_images.zip", "val_images.zip"), ("train_texts.zip", "val_texts.zip")),
    ],
)
def test_sidecars_that_come_later_find_the_archives_of_their_pictures(
    uploads: Uploads, pictures: tuple[str, str], texts: tuple[str, str]
) -> None:
    uploads.upload({name: packed({"1.png": one}) for name, one in zip(pictures, (ONE, TWO), strict=True)}, index=False)
    later = {name: packed({"1.txt": text}) for name, text in zip(texts, (b"first", b"second"), strict=True)}
    assert captions(uploads, later) == ["first", "second"]


@pytest.mark.parametrize(
    "steps",
    [
        [{"a.png": ONE}, {"a.png": TWO}, {"a.txt": b"which"}],
        [{"x.zip": packed({"a.png": ONE}), "y.zip": packed({"a.png": TWO})}, {"z.zip": packed({"a.txt": b"which"})}],
        [{"a  b.png": ONE, "a b.png": TWO, "a b.txt": b"which"}],
        [{"é.png": ONE, unicodedata.normalize("NFD", "é.png"): TWO, "é.txt": b"which"}],
        [{"a.tar": tarred(("a.png", ONE), ("a.txt", b"first"), ("a.png", TWO), ("a.txt", b"second"))}],
    ],
    ids=["uploads", "archives", "spaces", "accents", "appended"],
)
def test_a_sidecar_of_two_pictures_that_no_name_tells_apart_is_refused(
    uploads: Uploads, steps: list[dict[str, bytes]]
) -> None:
    for files in steps:
        job_id = uploads.upload(files, index=False)
    with uploads.world.sessions() as session:
        query = sa.select(UploadFile.status, UploadFile.error).filter_by(job_id=job_id, content="text")
        refused = session.execute(query).all()
    assert refused
    for status, error in refused:
        assert status is FileStatus.REJECTED
        assert "fits 2 pictures that are all named" in str(error)
    assert [item.text for item in items(uploads)] == [None, None]


@pytest.mark.parametrize(
    ("name", "content", "changed"),
    [
        ("c.csv", sheet("said", "y/2.png"), "c.csv, row 2"),
        ("y/c.csv", sheet("said", "2.png"), "y/c.csv, row 2"),
        ("y/2.txt", b"said", "y/2.txt"),
        ("y/2.png.json", b'{"description": "said"}', "y/2.png.json"),
    ],
)
def test_a_later_caption_finds_a_duplicate_under_the_name_that_it_was_uploaded_with(
    uploads: Uploads, name: str, content: bytes, changed: str
) -> None:
    uploads.upload({"x/1.png": ONE}, index=False)
    uploads.upload({"y/2.png": ONE}, index=False)
    job_id = uploads.upload({name: content}, index=False)
    assert uploads.statuses(job_id)[changed] is FileStatus.UPDATED
    assert [(item.name, item.text) for item in items(uploads)] == [("x/1.png", "said")]


def test_the_own_name_of_a_picture_goes_before_that_of_a_duplicate(uploads: Uploads) -> None:
    uploads.upload({"a.png": ONE}, index=False)
    uploads.upload({"b.png": ONE}, index=False)
    uploads.upload({"b.png": TWO}, index=False)
    assert captions(uploads, {"c.csv": sheet("second", "b.png")}) == [None, "second"]
