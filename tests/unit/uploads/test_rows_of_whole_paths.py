"""A row means the picture whose whole path it gives, before any that has only the end of it."""

from __future__ import annotations

import hashlib
import json

import pytest
import sqlalchemy as sa
from tests.unit.uploads.conftest import Files, Uploads, packed, picture
from tests.unit.uploads.test_retry import retry

from retllm.db.enums import FileStatus
from retllm.db.tables import Item

MEANT, OTHER = picture(1), picture(2)


def sheet(*rows: tuple[str, str]) -> bytes:
    return "\n".join(["file,caption", *(f'"{name}",{text}' for name, text in rows), ""]).encode()


def captioned(uploads: Uploads) -> dict[str, str]:
    """The captions of the two pictures."""
    with uploads.world.sessions() as session:
        found = session.execute(sa.select(Item.content_sha256, Item.text).where(Item.text.is_not(None))).all()
    names = {hashlib.sha256(MEANT).hexdigest(): "meant", hashlib.sha256(OTHER).hexdigest(): "other"}
    return {names[content]: str(text) for content, text in found}


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize(
    ("files", "path", "name"),
    [
        ({"thumbs/1.png": OTHER, "photos.zip": packed({"1.png": MEANT})}, "s.csv", "1.png"),
        ({"y/x/1.png": OTHER, "x.zip": packed({"1.png": MEANT})}, "s.csv", "x/1.png"),
        ({"y/x/1.png": OTHER, "x.zip": packed({"x/1.png": MEANT})}, "s.csv", "x/1.png"),
        ({"y/a/x/1.png": OTHER, "a/x.zip": packed({"1.png": MEANT})}, "s.csv", "a/x/1.png"),
        ({"d/e/1.png": OTHER, "d.zip": packed({"1.png": MEANT})}, "d/s.csv", "1.png"),
        ({"1.png": OTHER, "d.zip": packed({"d/1.png": MEANT})}, "d/s.csv", "1.png"),
        # beside its archive, as if that were unpacked there
        ({"d/e/1.png": OTHER, "d/p.zip": packed({"1.png": MEANT})}, "d/s.csv", "1.png"),
        # a loose picture at the whole path goes before all in archives
        ({"1.png": MEANT, "photos.zip": packed({"1.png": OTHER})}, "s.csv", "1.png"),
        # and a sheet's own archive before all outside of it
        ({"1.png": OTHER, "z.zip": packed({"a/1.png": MEANT, "s.csv": sheet(("1.png", "right"))})}, "", ""),
    ],
)
def test_the_whole_path_goes_before_the_end_of_one(
    uploads: Uploads, files: Files, path: str, name: str, together: bool
) -> None:
    described = {path: sheet((name, "right"))} if path else {}
    if together or not path:
        uploads.upload(files | described, index=False)
    else:
        uploads.upload(files, index=False)
        uploads.upload(described, index=False)
    assert captioned(uploads) == {"meant": "right"}


def test_a_picture_of_an_archive_is_told_from_loose_ones_of_that_name(uploads: Uploads) -> None:
    files = {"thumbs/1.png": OTHER, "photos.zip": packed({"1.png": MEANT}), "s.csv": sheet(("1.png", "right"))}
    row = uploads.rows(uploads.upload(files, index=False))["s.csv, row 2"]
    assert "'1.png' in 'photos.zip' has this caption" in str(row.remark)


ROOT, BELOW = ("1.png", "root"), ("x/1.png", "below")


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("here", "rows", "right"),
    [
        ("1.png", [ROOT, BELOW], "root"),
        ("x/1.png", [ROOT, BELOW], "below"),
        ("photos/1.png", [("photos/1.png", "near"), ("2021/photos/1.png", "far")], "near"),
        ("a.png", [("a.png", "lower"), ("A.png", "upper")], "lower"),
        ("a.png", [("a.png", "whole"), ("a", "bare")], "whole"),
        # two ways to write one path
        ("x/1.png", [("x/1.png", "one"), ("./x//1.png", "two")], "one\ntwo"),
    ],
)
def test_a_row_of_a_picture_that_is_missing_leaves_the_one_that_another_row_names(
    uploads: Uploads, here: str, rows: list[tuple[str, str]], right: str, order: int, together: bool
) -> None:
    described = {"s.csv": sheet(*rows[::order])}
    if together:
        job_id = uploads.upload({here: MEANT, **described}, index=False)
    else:
        uploads.upload({here: MEANT}, index=False)
        job_id = uploads.upload(described, index=False)
    told = captioned(uploads)["meant"]
    assert sorted(told.split("\n")) == right.split("\n")
    refused = [row for row in uploads.rows(job_id).values() if row.status is FileStatus.REJECTED]
    assert len(refused) == 2 - len(right.split("\n"))
    assert all("is not in this collection" in str(row.error) and here in str(row.error) for row in refused)


def test_what_was_missing_gets_its_row_by_a_retry(uploads: Uploads) -> None:
    uploads.upload({"1.png": MEANT}, index=False)
    job_id = uploads.upload({"s.csv": sheet(ROOT, BELOW)}, index=False)
    uploads.upload({"x/1.png": OTHER}, index=False)
    retry(uploads, job_id)
    assert captioned(uploads) == {"meant": "root", "other": "below"}


def test_rows_of_two_missing_folders_are_not_mixed(uploads: Uploads) -> None:
    files = {"1.png": MEANT, "s.csv": sheet(("x/1.png", "one"), ("y/x/1.png", "two"))}
    job_id = uploads.upload(files, index=False)
    assert captioned(uploads) == {}
    assert "would be the same picture" in str(uploads.rows(job_id)["s.csv, row 2"].error)


def test_a_row_of_a_json_document_too(uploads: Uploads) -> None:
    rows = [{"file": name, "text": text} for name, text in (BELOW, ROOT)]
    uploads.upload({"1.png": MEANT, "s.json": json.dumps(rows).encode()}, index=False)
    assert captioned(uploads) == {"meant": "root"}


def test_a_row_that_was_applied_stays_applied_when_another_picture_fits_it_later(uploads: Uploads) -> None:
    uploads.upload({"b.zip": packed({"1.png": MEANT})}, index=False)
    rows = sheet(("b/1.png", "one"), ("1.png", "two"), ("lost.png", "three"))
    job_id = uploads.upload({"s.csv": rows}, index=False)
    assert captioned(uploads) == {"meant": "one\ntwo"}
    uploads.upload({"a.zip": packed({"1.png": picture(3)}), "lost.png": OTHER}, index=False)
    retry(uploads, job_id)
    assert captioned(uploads) == {"meant": "one\ntwo", "other": "three"}
    assert FileStatus.REJECTED not in uploads.statuses(job_id).values()
