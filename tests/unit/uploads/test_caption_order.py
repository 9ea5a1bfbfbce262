"""What came last counts: an upload that ends late, or is tried again, keeps the captions of files that came after."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from tests.unit.uploads.conftest import Files, Uploads, packed, picture

from retllm.db.enums import FileStatus
from retllm.db.session import transaction
from retllm.db.tables import Job
from retllm.uploads.retry import retry_rejected

PICTURE = {"a.png": picture(1)}


def sheet(text: str, name: str = "rows.csv") -> Files:
    return {name: f"file,caption\na.png,{text}\n".encode()}


def finish(uploads: Uploads, job_id) -> None:
    uploads.close(job_id)
    uploads.run(job_id)


FORMS = {
    "sheet": (sheet("old"), "rows.csv, row 2"),
    "sidecar": ({"a.txt": b"old"}, "a.txt"),
    "archive": ({"old.zip": packed({"a.txt": b"old"} | PICTURE)}, "a.txt"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("later", [sheet("new", "new.csv"), {"new.zip": packed({"a.txt": b"new", **PICTURE})}])
def test_a_caption_that_came_later_stays_when_an_older_upload_ends(uploads: Uploads, form: str, later: Files) -> None:
    files, row = FORMS[form]
    uploads.upload(PICTURE, index=False)
    left_open = uploads.open(index=False)
    uploads.send(left_open, files)
    uploads.upload(later, index=False)
    before = uploads.items()["a.png"]
    assert before.text == "new"
    finish(uploads, left_open)

    after = uploads.items()["a.png"]
    assert (after.text, after.version) == ("new", before.version)
    told = uploads.rows(left_open)[row]
    assert told.status is FileStatus.DUPLICATE
    assert told.item_id == after.id
    assert told.remark == f"Not used: {next(iter(later))!r}, which was uploaded later, gave the caption."
    uploads.check()


def test_the_order_is_that_of_the_files_and_not_of_the_uploads(uploads: Uploads) -> None:
    first = uploads.open(index=False)
    uploads.send(first, PICTURE)
    uploads.run(first)
    uploads.upload(sheet("second"), index=False)
    uploads.send(first, sheet("third"))
    finish(uploads, first)
    assert uploads.items()["a.png"].text == "third"


def test_a_later_file_that_says_the_same_confirms_a_caption(uploads: Uploads) -> None:
    uploads.upload(PICTURE | sheet("right"), index=False)
    left_open = uploads.open(index=False)
    uploads.send(left_open, sheet("wrong"))
    uploads.upload(sheet("right", "again.csv"), index=False)
    before = uploads.items()["a.png"].version
    finish(uploads, left_open)
    assert (uploads.items()["a.png"].text, uploads.items()["a.png"].version) == ("right", before)


def test_an_older_file_that_says_the_same_leaves_the_later_one_in_its_right(uploads: Uploads) -> None:
    uploads.upload(PICTURE, index=False)
    first, second = uploads.open(index=False), uploads.open(index=False)
    uploads.send(first, sheet("right"))
    uploads.send(second, sheet("wrong"))
    uploads.upload(sheet("right"), index=False)
    finish(uploads, first)
    finish(uploads, second)
    assert uploads.items()["a.png"].text == "right"


def test_a_caption_of_an_upload_that_was_deleted_stays(uploads: Uploads) -> None:
    uploads.upload(PICTURE, index=False)
    left_open = uploads.open(index=False)
    uploads.send(left_open, sheet("old"))
    later = uploads.upload(sheet("new"), index=False)
    with transaction(uploads.world.sessions) as session:
        session.execute(sa.delete(Job).where(Job.id == later))
    finish(uploads, left_open)
    assert uploads.items()["a.png"].text == "new"
    remark = uploads.rows(left_open)["rows.csv, row 2"].remark
    assert remark == "Not used: a file that was uploaded later gave the caption."


def test_a_retry_of_an_old_upload_keeps_what_later_ones_said(uploads: Uploads) -> None:
    old = uploads.upload({"rows.csv": b"file,caption\na.png,old\nb.png,only here\n"}, index=False)
    assert uploads.statuses(old)["rows.csv, row 2"] is FileStatus.REJECTED
    uploads.upload(PICTURE | sheet("new") | {"b.png": picture(2)}, index=False)
    with transaction(uploads.world.sessions) as session:
        retry_rejected(session, session.get_one(Job, old))
    uploads.run(old)
    assert {name: item.text for name, item in uploads.items().items()} == {"a.png": "new", "b.png": "only here"}
    assert uploads.statuses(old)["rows.csv, row 2"] is FileStatus.DUPLICATE
    assert uploads.statuses(old)["rows.csv, row 3"] is FileStatus.UPDATED
