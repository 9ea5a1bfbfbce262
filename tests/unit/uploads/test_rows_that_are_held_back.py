"""A row waits for a better picture that is announced, instead of captioning one that it means less exactly."""

from __future__ import annotations

from unicodedata import normalize

import pytest
from tests.unit.media.test_parts import pages
from tests.unit.uploads.conftest import Files, Uploads, packed, picture
from tests.unit.uploads.test_awaited_archives import LATER, announced, captions, come
from tests.unit.uploads.test_retry import retry
from tests.unit.uploads.test_rows_of_pages_that_may_come import sheet as quoted
from tests.unit.uploads.test_rows_of_unsent_pictures import AGAIN, broken_off

from retllm.db.enums import FileStatus

ONE = picture(1)


def sheet(*rows: str) -> bytes:
    return "\n".join(["file,caption", *(f"{row},of {row}" for row in rows)]).encode()


@pytest.mark.parametrize(
    ("here", "row"),
    [
        ({"1.png": ONE}, "x/1.png"),
        ({"p.zip": packed({"p/1.png": ONE})}, "1.png"),
        ({"p/1.png": ONE}, "1.png"),
        ({"1.jpg": ONE}, "1.png"),
        ({"IMG.png": ONE}, "img.png"),
        ({"big.zip": packed({"x/1.png": ONE})}, "x/1.png"),
    ],
    ids=["at the root", "in another archive", "in a folder", "another suffix", "another case", "of the archive's name"],
)
def test_a_row_may_mean_a_picture_in_an_archive_that_was_not_sent(uploads: Uploads, here: Files, row: str) -> None:
    uploads.upload(here, index=False)
    job_id = broken_off(uploads, ["x.zip", "s.csv"], {"s.csv": sheet(row)})
    told = uploads.rows(job_id)["s.csv, row 2"]
    assert (told.status, told.error) == (
        FileStatus.NOT_SENT,
        f"Row 2 names the picture {row!r}, which did not come, and 'x.zip' {AGAIN}",
    )
    assert set(captions(uploads).values()) == {None}
    uploads.check(left=lambda key: key.startswith("uploads/"))


def test_a_row_of_an_archive_that_was_not_sent_counts_when_both_are_sent_again(uploads: Uploads) -> None:
    uploads.upload({"1.png": ONE}, index=False)
    files: Files = {"x.zip": packed({"1.png": picture(2)}), "s.csv": sheet("x/1.png")}
    broken_off(uploads, files, {"s.csv": files["s.csv"]})
    again = uploads.upload(files, index=False)
    rows = uploads.rows(again)
    assert rows["s.csv, row 2"].status is FileStatus.UPDATED
    assert rows["s.csv, row 2"].item_id == rows["1.png"].item_id


def test_of_two_archives_the_one_that_came_does_not_stand_for_the_other(uploads: Uploads) -> None:
    files: Files = {"a.zip": packed({"p/1.png": ONE}), "s.csv": sheet("1.png", "p/1.png")}
    job_id = broken_off(uploads, ["b.zip", *files], files)
    rows = uploads.rows(job_id)
    assert rows["s.csv, row 2"].error == f"Row 2 names the picture '1.png', which did not come, and 'b.zip' {AGAIN}"
    assert captions(uploads) == {"p/1.png": "of p/1.png"}


@pytest.mark.parametrize(
    ("sent", "row"),
    [
        ({"a.zip": packed({"p/1.png": ONE, "s.csv": sheet("1.png")})}, "1.png"),
        ({"p/1.png": ONE, "p/s.csv": sheet("1.jpg")}, "1.jpg"),
        ({"x/1.png": ONE, "s.csv": sheet("x/1.png")}, "x/1.png"),
        ({"a.zip": packed({"1.png": ONE}), "s.csv": sheet("1.png")}, "1.png"),
        ({"1.png": ONE, "s.csv": sheet("1")}, "1"),
        (
            {"t.zip": packed({"caf\u00e9.png": b"", "cafe\u0301.png": ONE}), "s.csv": sheet("cafe\u0301.png")},
            "cafe\u0301.png",
        ),
        ({"p/1.png": ONE, "coco_train.csv": sheet("train/1.png")}, None),
    ],
    ids=[
        "of the same archive",
        "of the same folder",
        "of the whole name",
        "at the root",
        "without suffix",
        "very name",
        "apart",
    ],
)
def test_a_row_that_no_other_picture_can_be_for_does_not_wait(uploads: Uploads, sent: Files, row: str | None) -> None:
    missing = "x.zip" if row else "val.zip"
    job_id = broken_off(uploads, [missing, *sent], sent)
    assert FileStatus.NOT_SENT not in [status for name, status in uploads.statuses(job_id).items() if ", row" in name]
    assert list(captions(uploads).values()) == ([normalize("NFC", f"of {row}")] if row else [None])


def test_a_picture_that_came_in_an_archive_of_the_name_stands_for_it(uploads: Uploads) -> None:
    uploads.upload({"x.zip": packed({"1.png": ONE})}, index=False)
    broken_off(uploads, ["x.zip", "s.csv"], {"s.csv": sheet("x/1.png")})
    assert captions(uploads) == {"1.png": "of x/1.png"}


@pytest.mark.parametrize(
    ("here", "to_come", "row"),
    [
        ("1.png", "x/1.png", "x/1.png"),
        ("a.jpg", "a.png", "a.png"),
        ("IMG.png", "img.png", "img.png"),
        ("a.heic.jpg", "a.heic", "a.heic"),
        ("1.png", "me/1.png", "/home/me/1.png"),
        ("x/A.png", "x/a.png", "x/a.png"),
    ],
)
def test_a_row_waits_for_the_better_picture_that_another_upload_brings(
    uploads: Uploads, here: str, to_come: str, row: str
) -> None:
    uploads.upload({here: ONE}, index=False)
    first = announced(uploads, [to_come])
    early = uploads.upload({"s.csv": sheet(row)}, index=False)
    assert uploads.rows(early)["s.csv, row 2"].error == f"Row 2 names the picture {row!r}, {LATER}."
    assert captions(uploads) == {here: None}
    come(uploads, first, {to_come: picture(2)})
    retry(uploads, early)
    assert captions(uploads) == {here: None, to_come: f"of {row}"}


def test_a_row_captions_the_picture_that_is_here_if_the_better_one_never_comes(uploads: Uploads) -> None:
    uploads.upload({"1.png": ONE}, index=False)
    first = announced(uploads, ["x/1.png"])
    early = uploads.upload({"s.csv": sheet("x/1.png")}, index=False)
    come(uploads, first, {})
    retry(uploads, early)
    assert captions(uploads) == {"1.png": "of x/1.png"}


@pytest.mark.parametrize(
    ("here", "to_come", "row"),
    [
        ({"x/1.png": ONE}, "1.png", "x/1.png"),
        ({"x/1.png": ONE}, "x/1.png", "x/1.png"),
        ({"a.jpg": ONE}, "a.webp", "a.png"),
        ({"p/1.png": ONE}, "q/1.jpg", "1.png"),
        ({"p/1.png": ONE}, "b.zip", "1.png"),
        ({"x/1.png": ONE}, "x.zip", "x/1.png"),
    ],
)
def test_a_row_waits_for_no_picture_that_is_not_better(uploads: Uploads, here: Files, to_come: str, row: str) -> None:
    uploads.upload(here, index=False)
    announced(uploads, [to_come])
    uploads.upload({"s.csv": sheet(row)}, index=False)
    assert list(captions(uploads).values()) == [f"of {row}"]


@pytest.mark.parametrize("archive", ["x.zip", "more.zip"])
@pytest.mark.parametrize("here", [{"old.zip": packed({"1.png": ONE})}, {"1.png": ONE}], ids=["archived", "loose"])
def test_a_row_with_other_folders_waits_for_the_archive_of_another_upload(
    uploads: Uploads, here: Files, archive: str
) -> None:
    uploads.upload(here, index=False)
    first = announced(uploads, [archive])
    early = uploads.upload({"s.csv": sheet("x/1.png")}, index=False)
    may_come = f"which is not in this collection; it may be in {archive!r}, {LATER}."
    assert uploads.rows(early)["s.csv, row 2"].error == f"Row 2 names the picture 'x/1.png', {may_come}"
    come(uploads, first, {archive: packed({"x/1.png": picture(2)})})
    retry(uploads, early)
    assert captions(uploads) == {"1.png": None, "x/1.png": "of x/1.png"}


def test_what_came_with_the_upload_of_the_sheet_goes_before_what_another_one_brings(uploads: Uploads) -> None:
    announced(uploads, ["more.zip", "x/1.png"])
    uploads.upload({"1.png": ONE, "s.csv": sheet("x/1.png")}, index=False)
    assert captions(uploads) == {"1.png": "of x/1.png"}


def test_a_row_that_counted_is_not_held_back_when_its_sheet_is_read_again(uploads: Uploads) -> None:
    uploads.upload({"1.png": ONE}, index=False)
    early = uploads.upload({"s.csv": sheet("x/1.png", "no.png")}, index=False)
    before = uploads.statuses(early)
    announced(uploads, ["x/1.png"])
    retry(uploads, early)
    assert uploads.statuses(early) == before
    assert [row.name for row in uploads.rows(early).values()].count("s.csv, row 2") == 1


def test_an_archive_that_came_with_a_later_upload_is_not_waited_for(uploads: Uploads) -> None:
    files: Files = {"s.csv": sheet("lost.png", "a.png"), "notes.txt": b"some words", "a.txt": b"words"}
    job_id = broken_off(uploads, ["more.zip", *files], files)
    rows = uploads.rows(job_id)
    assert rows["notes.txt"].error == (
        "The picture of 'notes.txt' may be in 'more.zip', which was not sent: upload both again, or the text alone if "
        "it is to be an item."
    )
    assert rows["s.csv, row 2"].status is FileStatus.NOT_SENT
    uploads.upload({"more.zip": packed({"a.png": ONE})}, index=False)
    retry(uploads, job_id)
    rows = uploads.rows(job_id)
    assert "which is not in this collection: upload it or correct the name" in str(rows["s.csv, row 2"].error)
    assert captions(uploads) == {"a.png": "of a.png", "notes.txt": "some words"}


def test_what_another_running_upload_has_of_the_archive_is_awaited(uploads: Uploads) -> None:
    job_id = broken_off(uploads, ["more.zip", "s.csv"], {"s.csv": sheet("a.png")})
    later = announced(uploads, [])
    uploads.send(later, {"more.zip": packed({"a.png": ONE})})
    retry(uploads, job_id)
    may_come = f"which is not in this collection; it may be in 'more.zip', {LATER}."
    assert uploads.rows(job_id)["s.csv, row 2"].error == f"Row 2 names the picture 'a.png', {may_come}"


@pytest.mark.parametrize("packing", [False, True])
def test_a_text_names_the_archive_that_it_waits_for_although_another_folder_has_the_name(
    uploads: Uploads, packing: bool
) -> None:
    uploads.upload({"old.zip": packed({"1.png": ONE})} if packing else {"y/1.png": ONE}, index=False)
    job_id = broken_off(uploads, ["new.zip", "x/1.txt"], {"x/1.txt": b"words"})
    told = str(uploads.rows(job_id)["x/1.txt"].error)
    assert told.startswith("The picture of '1.txt' may be in 'new.zip', which was not sent: upload both again")


@pytest.mark.parametrize("row", ["q/p.png", "q/p.tif, page 2", "q/p.tif"])
def test_a_row_waits_for_an_archive_although_another_folder_has_the_name(uploads: Uploads, row: str) -> None:
    uploads.upload({"old/p.png": ONE, "old/p.tif": pages(2)}, index=False)
    files: Files = {"z.zip": packed({"q/p.png": picture(2), "q/p.tif": pages(5)}), "c.csv": quoted(row)}
    first = announced(uploads, ["z.zip"])
    early = uploads.upload({"c.csv": files["c.csv"]}, index=False)
    may_come = f"which is not in this collection; it may be in 'z.zip', {LATER}."
    assert uploads.rows(early)["c.csv, row 2"].error == f"Row 2 names the picture {row!r}, {may_come}"
    come(uploads, first, {})
    job_id = broken_off(uploads, files, {"c.csv": files["c.csv"]})
    told = uploads.rows(job_id)["c.csv, row 2"].error
    assert told == f"Row 2 names the picture {row!r}, which did not come, and 'z.zip' {AGAIN}"
    assert set(captions(uploads).values()) == {None}


@pytest.mark.parametrize("how", ["awaited", "not sent"])
def test_a_row_waits_for_no_archive_of_another_part_of_the_data_set(uploads: Uploads, how: str) -> None:
    uploads.upload({"p/1.png": ONE}, index=False)
    rows: Files = {"c.csv": quoted("train/1.png", "train/2.png")}
    if how == "awaited":
        announced(uploads, ["val.zip"])
        job_id = uploads.upload(rows, index=False)
    else:
        job_id = broken_off(uploads, ["val.zip", *rows], rows)
    told = uploads.rows(job_id)
    assert "the only one of that name is 'p/1.png'" in str(told["c.csv, row 2"].error)
    assert "upload it or correct the name" in str(told["c.csv, row 3"].error)
