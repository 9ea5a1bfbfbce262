"""Rows whose pictures were announced and did not come say so, and count when the same files are sent again."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from uuid import UUID

import pytest
from tests.unit.media.test_parts import pages
from tests.unit.uploads.conftest import Files, Uploads, packed, picture
from tests.unit.uploads.test_retry import retry

from retllm.db.enums import FileStatus
from retllm.db.session import transaction
from retllm.history.file_counts import file_counts
from retllm.media.sheets import refusals
from retllm.uploads import unsent
from retllm.uploads.offers import Offer, arrived
from retllm.uploads.rest import Rest, rest_of
from retllm.uploads.views import has_kept_rejected

SHEET = b"file,caption\n1.png,one\n2.png,two\n3.png,three\n"
AGAIN = "was not sent with this upload: send the same files again, and the row counts."


def broken_off(uploads: Uploads, names: Iterable[str], files: Files) -> UUID:
    """Announce files, send some, and end the upload."""
    job_id = uploads.open(index=False)
    with transaction(uploads.world.sessions) as session:
        unsent.expect(session, job_id, 0, list(names))
    uploads.send(job_id, files)
    uploads.close(job_id)
    uploads.run(job_id)
    return job_id


def texts(uploads: Uploads) -> dict[str, str | None]:
    return {name: item.text for name, item in uploads.items().items()}


def test_a_row_of_a_picture_that_was_not_sent_says_so_and_counts_with_the_next_upload(uploads: Uploads) -> None:
    files = {"c.csv": SHEET, "1.png": picture(1), "2.png": picture(2)}
    job_id = broken_off(uploads, files, {name: files[name] for name in ("c.csv", "1.png")})
    rows = uploads.rows(job_id)
    assert uploads.statuses(job_id) == {
        "c.csv": FileStatus.READ,
        "c.csv, row 2": FileStatus.UPDATED,
        "c.csv, row 3": FileStatus.NOT_SENT,
        "c.csv, row 4": FileStatus.REJECTED,
        "1.png": FileStatus.ADDED,
        "2.png": FileStatus.NOT_SENT,
    }
    assert (rows["c.csv, row 3"].error_code, rows["c.csv, row 3"].error) == (
        "not_sent",
        f"Row 3 names the picture '2.png', which {AGAIN}",
    )
    assert "which is not in this collection: upload it or correct the name" in str(rows["c.csv, row 4"].error)
    with uploads.world.sessions() as session:
        counted = file_counts(session, [job_id])[job_id]
    assert counted.counts[FileStatus.NOT_SENT] == 2
    assert counted.parts == {FileStatus.NOT_SENT: {"row": 1}, FileStatus.REJECTED: {"row": 1}}
    uploads.check()
    uploads.upload(files, index=False)
    assert texts(uploads) == {"1.png": "one", "2.png": "two"}
    uploads.check()


def test_the_retry_of_an_upload_applies_the_rows_whose_pictures_came_with_another_one(uploads: Uploads) -> None:
    files = {"c.csv": SHEET, "1.png": picture(1), "2.png": picture(2), "3.png": picture(3)}
    job_id = broken_off(uploads, files, {"c.csv": SHEET, "1.png": files["1.png"]})
    with uploads.world.sessions() as session:
        assert has_kept_rejected(session, job_id)
    retry(uploads, job_id)
    assert uploads.statuses(job_id)["c.csv, row 3"] is FileStatus.NOT_SENT
    uploads.upload({name: files[name] for name in ("2.png", "3.png")}, index=False)
    retry(uploads, job_id)
    assert uploads.statuses(job_id) == {
        "c.csv": FileStatus.READ,
        **{f"c.csv, row {number}": FileStatus.UPDATED for number in (2, 3, 4)},
        "1.png": FileStatus.ADDED,
        "2.png": FileStatus.IGNORED,
        "3.png": FileStatus.IGNORED,
    }
    assert texts(uploads) == {"1.png": "one", "2.png": "two", "3.png": "three"}
    assert uploads.stored("uploads/") == []
    uploads.check()


@pytest.mark.parametrize(
    ("come", "row"),
    [
        ({"val/1.png": picture(1)}, "1.png"),
        ({"train/1.webp": picture(1)}, "train/1.png"),
        ({"train/sub/1.png": picture(1)}, "train/1.png"),
    ],
    ids=["of the same name elsewhere", "with another suffix", "below the folder"],
)
@pytest.mark.parametrize("when", ["with the sheet", "before the sheet"])
def test_a_row_of_a_picture_that_was_not_sent_captions_no_other_one(
    uploads: Uploads, come: Files, row: str, when: str
) -> None:
    if when == "before the sheet":
        uploads.upload(come, index=False)
        come = {}
    sheet = f"file,caption\n{row},a caption\n".encode()
    names = ["c.csv", "train/1.png", *come]
    job_id = broken_off(uploads, names, {"c.csv": sheet, **come})
    assert uploads.rows(job_id)["c.csv, row 2"].error == f"Row 2 names the picture {row!r}, which {AGAIN}"
    assert set(texts(uploads).values()) == {None}


def test_a_picture_of_an_earlier_upload_gets_its_caption_although_it_was_not_sent_again(uploads: Uploads) -> None:
    uploads.upload({"a/1.png": picture(1)}, index=False)
    sheet = b"file,caption\n1.png,one\n"
    job_id = broken_off(uploads, ["a/c.csv", "a/1.png"], {"a/c.csv": sheet})
    assert uploads.statuses(job_id)["a/c.csv, row 2"] is FileStatus.UPDATED
    assert texts(uploads) == {"a/1.png": "one"}


def test_rows_of_pages_and_of_pictures_in_archives_that_were_not_sent_say_so(uploads: Uploads) -> None:
    files = {
        "s/c.csv": b'file,caption\n"scan.tif, page 2",second\nscan.pdf,whole\n1.png,one\nno.png,none\n',
        "s/scan.tif": pages(3),
        "s/scan.pdf": pages(2, "PDF"),
        "s/more.zip": packed({"1.png": picture(1)}),
    }
    job_id = broken_off(uploads, files, {"s/c.csv": files["s/c.csv"]})
    rows = uploads.rows(job_id)
    assert [rows[f"s/c.csv, row {number}"].error for number in (2, 3, 4, 5)] == [
        f"Row 2 names the picture 'scan.tif, page 2', which {AGAIN}",
        f"Row 3 names the picture 'scan.pdf', which {AGAIN}",
        f"Row 4 names the picture '1.png', which did not come, and 'more.zip' {AGAIN}",
        f"Row 5 names the picture 'no.png', which did not come, and 'more.zip' {AGAIN}",
    ]
    again = uploads.upload(files, index=False)
    statuses = uploads.statuses(again)
    assert [str(statuses[f"s/c.csv, row {number}"]) for number in (2, 3, 4, 5)] == ["updated"] * 3 + ["rejected"]


def test_many_rows_of_pictures_that_were_not_sent_are_counted_together(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "SHOWN", 1)
    job_id = broken_off(uploads, ["c.csv", "1.png", "2.png", "3.png"], {"c.csv": SHEET})
    told = [(row.name, row.status, row.count) for row in uploads.rows(job_id).values() if "c.csv" in row.name]
    # the dictionary has the last one of a name
    assert told == [("c.csv", FileStatus.NOT_SENT, 2), ("c.csv, row 2", FileStatus.NOT_SENT, 1)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.png.xmp", b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'),
        ("a.png.json", b'{"title": "a.png", "description": "one"}'),
        ("a.caption", b"one"),
    ],
)
def test_a_sidecar_of_a_picture_that_was_not_sent_says_so(uploads: Uploads, name: str, content: bytes) -> None:
    job_id = broken_off(uploads, ["a.png", name], {name: content})
    row = uploads.rows(job_id)[name]
    assert row.status is FileStatus.NOT_SENT
    assert f"{name!r} has the caption of 'a.png', which was not sent: upload both again" in str(row.error)
    with uploads.world.sessions() as session:
        # the sidecar itself is here
        assert rest_of(session, job_id, {FileStatus.NOT_SENT: 2}) == Rest(left=1, came=0, rows=1, may_retry=True)
        assert has_kept_rejected(session, job_id)
        offer = Offer(name=name, size=len(content), sha256=sha256(content).hexdigest())
        assert arrived(session, job_id, [offer]) == [True]
    uploads.upload({"a.png": picture(1)}, index=False)
    retry(uploads, job_id)
    assert uploads.rows(job_id)[name].status in (FileStatus.UPDATED, FileStatus.IGNORED)
    assert uploads.stored("uploads/") == []
    uploads.check()
