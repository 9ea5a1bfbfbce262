"""A row or a sidecar of a page waits like one of its whole file, and captions no page of another file instead."""

from __future__ import annotations

import io

import pytest
from PIL import Image
from tests.unit.media.films import film
from tests.unit.uploads.conftest import Files, Uploads, packed
from tests.unit.uploads.test_awaited_archives import LATER, announced, captions, come
from tests.unit.uploads.test_retry import retry
from tests.unit.uploads.test_rows_of_unsent_pictures import AGAIN, broken_off

from retllm.db.enums import FileStatus


def document(name: str, shade: int) -> bytes:
    """Return a document or film of three parts, which those of other shades do not have."""
    first, *others = (Image.new("RGB", (160, 120), (shade, 120 * place, 30)) for place in range(3))
    if name.endswith(".mp4"):
        return film([first, *others])
    file = io.BytesIO()
    first.save(file, "PDF" if name.endswith(".pdf") else "TIFF", save_all=True, append_images=others)
    return file.getvalue()


def sheet(*names: str) -> bytes:
    return "\n".join(["file,caption", *(f'"{name}","of {name}"' for name in names)]).encode()


def given(uploads: Uploads) -> dict[str, str]:
    return {name: text for name, text in captions(uploads).items() if text}


PARTS = ["s.tif, page 2", "s.tif, page 1", "S.TIF, Page 2", "s.pdf, page 2", "s.mp4, 0:00"]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("older", [True, False])
def test_a_row_of_a_page_waits_for_the_file_that_another_upload_brings(
    uploads: Uploads, part: str, older: bool
) -> None:
    name = part.split(",")[0].lower()
    if older:
        uploads.upload({f"old/{name}": document(name, 0)}, index=False)
    first = announced(uploads, [name])
    early = uploads.upload({"c.csv": sheet(part)}, index=False)
    assert uploads.rows(early)["c.csv, row 2"].error == f"Row 2 names the picture {part!r}, {LATER}."
    assert given(uploads) == {}
    come(uploads, first, {name: document(name, 200)})
    retry(uploads, early)
    assert given(uploads) == {part.lower(): f"of {part}"}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("older", ["old/", "", None], ids=["elsewhere", "of the same name", "none"])
def test_a_row_of_a_page_of_a_file_that_was_not_sent_captions_no_other_page(
    uploads: Uploads, part: str, older: str | None
) -> None:
    name = part.split(",")[0].lower()
    if older is not None:
        uploads.upload({older + name: document(name, 0)}, index=False)
    files: Files = {"c.csv": sheet(part, name), name: document(name, 200)}
    job_id = broken_off(uploads, files, {"c.csv": files["c.csv"]})
    rows = uploads.rows(job_id)
    assert [rows[f"c.csv, row {number}"].error for number in (2, 3)] == [
        f"Row {number} names the picture {each!r}, which {AGAIN}" for number, each in ((2, part), (3, name))
    ]
    assert given(uploads) == {}
    again = uploads.upload(files, index=False)
    told = uploads.rows(again)
    assert told["c.csv, row 2"].item_id == told[part.lower()].item_id


def test_a_row_of_a_page_that_was_sent_does_not_wait(uploads: Uploads) -> None:
    announced(uploads, ["x/s.tif", "s.pdf", "old/t.tif"])
    uploads.upload({"old/t.tif": document("t.tif", 0)}, index=False)
    rows = sheet("s.tif, page 2", "old/t.tif, page 3", "x/no.tif, page 1")
    job_id = uploads.upload({"s.tif": document("s.tif", 200), "c.csv": rows}, index=False)
    assert given(uploads) == {name: f"of {name}" for name in ("s.tif, page 2", "old/t.tif, page 3")}
    assert "upload it or correct the name" in str(uploads.rows(job_id)["c.csv, row 4"].error)


def test_a_row_of_a_page_waits_for_the_file_in_an_archive_that_waits(uploads: Uploads) -> None:
    uploads.upload({"old/s.tif": document("s.tif", 0)}, index=False)
    first = announced(uploads, [])
    uploads.send(first, {"z.zip": packed({"d/s.tif": document("s.tif", 200)})})
    (unit,) = uploads.ready(first)
    assert uploads.do(unit), "only unpacked"
    early = uploads.upload({"c.csv": sheet("d/s.tif, page 2")}, index=False)
    assert given(uploads) == {}
    come(uploads, first, {})
    retry(uploads, early)
    assert given(uploads) == {"d/s.tif, page 2": "of d/s.tif, page 2"}


@pytest.mark.parametrize("name", ["s.tif", "s.pdf"])
def test_a_row_of_a_page_of_a_rejected_file_says_so(uploads: Uploads, name: str) -> None:
    uploads.upload({f"old/{name}": document(name, 0)}, index=False)
    broken = document(name, 200)[:100]
    job_id = uploads.upload({name: broken, "c.csv": sheet(f"{name}, page 2")}, index=False)
    told = uploads.rows(job_id)["c.csv, row 2"].error
    assert told == f"Row 2 names the picture '{name}, page 2', which was rejected: upload it again."
    assert given(uploads) == {}


@pytest.mark.parametrize("older", [True, False])
@pytest.mark.parametrize(
    ("side", "content"),
    [
        ("s.tif, page 2.txt", b"words"),
        ("S.tif, page 2.caption", b"words"),
        ("s.tif, page 2.json", b'{"caption": "words"}'),
    ],
)
def test_a_sidecar_of_a_page_waits_for_its_file(uploads: Uploads, older: bool, side: str, content: bytes) -> None:
    if older:
        uploads.upload({"old/s.tif": document("s.tif", 0)}, index=False)
    before = set(uploads.items())
    first = announced(uploads, ["s.tif"])
    early = uploads.upload({side: content}, index=False)
    assert uploads.rows(early)[side].error == f"{side!r} has the caption of 's.tif', {LATER}."
    assert set(uploads.items()) == before
    come(uploads, first, {"s.tif": document("s.tif", 200)})
    retry(uploads, early)
    assert given(uploads) == {"s.tif, page 2": "words"}


def test_a_sidecar_of_a_page_of_a_file_that_was_not_sent_says_so(uploads: Uploads) -> None:
    job_id = broken_off(uploads, ["s.tif", "s.tif, page 2.txt"], {"s.tif, page 2.txt": b"words"})
    told = uploads.rows(job_id)["s.tif, page 2.txt"]
    assert told.status is FileStatus.NOT_SENT
    assert str(told.error).startswith("'s.tif, page 2.txt' has the caption of 's.tif', which was not sent")
    assert uploads.items() == {}
