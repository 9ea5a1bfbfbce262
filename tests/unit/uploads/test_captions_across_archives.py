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


@pytest.mark.parametrize(
    "files",
    [
        {
            "ds-001.zip": packed({"ds/cats/c.csv": sheet("first") + b"2.png,second\n", "ds/cats/1.png": ONE}),
            "ds-002.zip": packed({"ds/cats/2.png": TWO, "ds/dogs/captions.csv": sheet("a dog", "9.png")}),
        },
        {
            "ds-001.zip": packed({"ds/cats/c.csv": sheet("first"), "ds/cats/2.png": TWO}),
            "ds-002.zip": packed({"ds/cats/1.png": ONE, "ds/c.csv": sheet("second", "cats/2.png")}),
        },
        {
            "0.png": picture(3),
            "c.csv": b"file,caption\n0.png,other\n1.png,first\nphotos/2.png,second\n",
            "photos.zip": packed({"1.png": ONE, "2.png": TWO, "info.json": b'{"version": 1}'}),
        },
        {
            # the sheet beside a picture counts for this one
            "a.zip": packed({"1.png": ONE, "c.csv": sheet("first") + b"2.png,not this\n"}),
            "b.zip": packed({"2.png": TWO, "c.csv": sheet("second", "2.png")}),
        },
        {
            "Val dIsere photos.zip": packed({"1.png": ONE, "2.png": TWO}),
            "training week captions.zip": packed({"c.csv": sheet("first") + b"2.png,second\n"}),
        },
        {
            "my test.zip": packed({"1.png": ONE, "2.png": TWO}),
            "dev.zip": packed({"1.txt": b"first", "2.txt": b"second"}),
        },
    ],
    ids=["split by folder", "each of the other", "no sheet", "own sheet", "words by chance", "other names"],
)
def test_a_sheet_is_for_the_pictures_of_other_archives_that_it_names(uploads: Uploads, files: dict[str, bytes]) -> None:
    uploads.upload(files, index=False)
    by_content = {item.content_sha256: item.text for item in items(uploads)}
    assert [by_content[hashlib.sha256(content).hexdigest()] for content in (ONE, TWO)] == ["first", "second"]


def test_a_refused_row_names_the_archive_of_the_picture_so_that_the_row_can(uploads: Uploads) -> None:
    pictures = {"train_images.zip": packed({"1.png": ONE})}
    job_id = uploads.upload(pictures | {"val_texts.zip": packed({"c.csv": sheet("wrong")})}, index=False)
    error = str(uploads.rows(job_id)["c.csv, row 2"].error)
    assert "the only one of that name is 'train_images/1.png', in another folder or archive" in error
    job_id = uploads.upload({"val_texts.zip": packed({"c.csv": sheet("right", "train_images/1.png")})}, index=False)
    assert uploads.statuses(job_id)["c.csv, row 2"] is FileStatus.UPDATED


def test_a_refused_row_names_two_pictures_that_may_be_meant(uploads: Uploads) -> None:
    job_id = uploads.upload({"x/1.png": ONE, "y/1.png": TWO, "c.csv": sheet("which", "z/1.png")}, index=False)
    error = str(uploads.rows(job_id)["c.csv, row 2"].error)
    assert "others of that name are 'x/1.png' and 'y/1.png', in other folders" in error


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


@pytest.mark.parametrize("pictures", [{"a/1.png": ONE}, {"a/1.png": ONE, "c/1.png": TWO}])
@pytest.mark.parametrize("name", ["1.txt", "b/1.txt"])
def test_a_later_text_that_is_named_like_a_picture_in_another_folder_is_refused_unless_texts_are_asked_for(
    uploads: Uploads, pictures: dict[str, bytes], name: str
) -> None:
    uploads.upload(pictures, index=False)
    row = uploads.rows(uploads.upload({name: b"which"}, index=False))[name]
    assert row.status is FileStatus.REJECTED
    assert "named like the picture 'a/1.png', which is in another folder or archive" in str(row.error)
    job_id = uploads.upload({name: b"which"}, index=False, texts=True)
    assert uploads.statuses(job_id)[name] is FileStatus.ADDED
    assert {item.name: item.text for item in items(uploads)} == dict.fromkeys(pictures) | {name: "which"}


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "refused"), [("c.csv", sheet("wrong"), "c.csv, row 2"), ("1.txt", b"wrong", "1.txt")]
)
def test_what_an_archive_says_is_not_for_that_of_another_part_of_the_data(
    uploads: Uploads, name: str, content: bytes, refused: str, later: bool
) -> None:
    pictures, other = {"train.zip": packed({"1.png": ONE})}, {"val_texts.zip": packed({name: content})}
    if later:
        uploads.upload(pictures, index=False)
    job_id = uploads.upload(other if later else pictures | other, index=False)
    row = uploads.rows(job_id)[refused]
    assert row.status is FileStatus.REJECTED
    assert "in another folder or archive" in str(row.error)
    assert [item.text for item in items(uploads)] == [None]


@pytest.mark.parametrize(
    "later",
    [
        {"c.csv": b"file,caption\ntrain/1.png,first\nval/1.png,second\n"},
        {"train.zip": packed({"c.csv": sheet("first")}), "val.zip": packed({"c.csv": sheet("second")})},
        {"train.csv": sheet("first"), "val.csv": sheet("second")},
    ],
)
def test_a_later_sheet_finds_the_archives_of_its_pictures(uploads: Uploads, later: dict[str, bytes]) -> None:
    uploads.upload({"train.zip": packed({"1.png": ONE}), "val.zip": packed({"1.png": TWO})}, index=False)
    assert captions(uploads, later) == ["first", "second"]


@pytest.mark.parametrize("sheets_first", [False, True])
def test_a_sheet_of_one_part_of_a_data_set_is_not_for_the_archive_of_another(
    uploads: Uploads, sheets_first: bool
) -> None:
    files = {"train.zip": packed({"1.png": ONE}), "val.csv": sheet("of val") + b"train/1.png,named\n"}
    job_id = uploads.upload({name: files[name] for name in sorted(files, reverse=sheets_first)}, index=False)
    assert "'train/1.png', in another folder or archive" in str(uploads.rows(job_id)["val.csv, row 2"].error)
    assert [item.text for item in items(uploads)] == ["named"]
