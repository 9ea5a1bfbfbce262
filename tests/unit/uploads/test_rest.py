"""What an upload lacks is settled when a later one brings it, and its rows then wait for a retry."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import sqlalchemy as sa
from tests.unit.uploads.conftest import Uploads, packed, picture
from tests.unit.uploads.test_retry import retry
from tests.unit.uploads.test_rows_of_unsent_pictures import broken_off

from retllm.db.enums import FileStatus
from retllm.db.jobs import Job
from retllm.db.session import transaction
from retllm.history.file_counts import FileCounts, file_counts
from retllm.queue import lifecycle
from retllm.uploads import unsent
from retllm.uploads.rest import EarlierRows, Rest, earlier_rows, rest_of, settle

SHEET = b"file,caption\n1.png,one\n2.png,two\n"
FILES = {"c.csv": SHEET, "1.png": picture(1), "2.png": picture(2)}
SENT = {name: FILES[name] for name in ("c.csv", "1.png")}


def counts(uploads: Uploads, job_id: UUID) -> FileCounts:
    with uploads.world.sessions() as session:
        return file_counts(session, [job_id])[job_id]


def rest(uploads: Uploads, job_id: UUID) -> Rest:
    with uploads.world.sessions() as session:
        return rest_of(session, job_id, file_counts(session, [job_id])[job_id].counts)


def earlier(uploads: Uploads, job_id: UUID) -> list[EarlierRows]:
    with uploads.world.sessions() as session:
        return list(earlier_rows(session, session.get_one(Job, job_id)))


def test_a_row_waits_for_a_retry_when_its_picture_came_alone_with_a_later_upload(uploads: Uploads) -> None:
    first = broken_off(uploads, FILES, SENT)
    assert rest(uploads, first) == Rest(left=1, came=0, rows=1, may_retry=True)
    later = uploads.upload({"2.png": FILES["2.png"]}, index=False)
    assert rest(uploads, first) == Rest(left=0, came=1, rows=1, may_retry=True)
    assert earlier(uploads, later) == [EarlierRows(first, 1)]
    rows = uploads.rows(first)
    assert (rows["2.png"].status, rows["2.png"].error) == (FileStatus.IGNORED, None)
    assert rows["2.png"].remark == "Not sent with this upload; it came with a later one."
    assert rows["c.csv, row 3"].error == (
        "Row 3 names the picture '2.png', which was not sent with this upload, but came with a later one: retry this "
        "upload, and the row counts."
    )
    retry(uploads, first)
    assert rest(uploads, first) == Rest(left=0, came=1, rows=0)
    assert FileStatus.NOT_SENT not in counts(uploads, first).counts
    assert earlier(uploads, later) == []
    assert {name: item.text for name, item in uploads.items().items()} == {"1.png": "one", "2.png": "two"}
    uploads.check()


def test_nothing_is_missing_any_longer_when_all_came_again(uploads: Uploads) -> None:
    first = broken_off(uploads, FILES, SENT)
    later = uploads.upload(FILES, index=False)
    assert rest(uploads, first) == Rest(left=0, came=1, rows=0)
    assert counts(uploads, first).counts.keys() == {
        FileStatus.READ,
        FileStatus.ADDED,
        FileStatus.UPDATED,
        FileStatus.IGNORED,
    }
    assert earlier(uploads, later) == []
    uploads.check()


def test_rows_of_a_sheet_in_an_archive_are_settled_when_the_archive_came_again(uploads: Uploads) -> None:
    files = {"a.zip": packed({"c.csv": b"file,caption\n2.png,two\n"}), "2.png": picture(2)}
    first = broken_off(uploads, files, {"a.zip": files["a.zip"]})
    assert rest(uploads, first).rows == 1
    uploads.upload(files, index=False)
    assert rest(uploads, first) == Rest(left=0, came=1, rows=0)


def test_rows_of_a_corrected_sheet_and_of_pictures_that_are_still_missing_wait_on(uploads: Uploads) -> None:
    names = [*FILES, "3.png"]
    first = broken_off(uploads, names, SENT)
    uploads.upload({"c.csv": SHEET + b"x.png,x\n", "2.png": FILES["2.png"]}, index=False)
    assert rest(uploads, first) == Rest(left=1, came=1, rows=1, may_retry=True)
    assert "send the same files again" in str(uploads.rows(first)["c.csv, row 3"].error)


def test_an_earlier_upload_that_is_closed_last_lacks_nothing_that_came_meanwhile(uploads: Uploads) -> None:
    first = uploads.open(index=False, expected=1)
    with transaction(uploads.world.sessions) as session:
        unsent.expect(session, first, 0, ["2.png"])
    uploads.upload({"2.png": FILES["2.png"]}, index=False)
    uploads.close(first)
    assert rest(uploads, first) == Rest(left=0, came=1, rows=0)


def test_what_was_cancelled_before_it_was_processed_is_still_to_send(uploads: Uploads) -> None:
    first = broken_off(uploads, FILES, SENT)
    later = uploads.open(index=False)
    uploads.send(later, {"2.png": FILES["2.png"]})
    with transaction(uploads.world.sessions) as session:
        job = lifecycle.lock_job(session, later)
        assert job is not None
        job.cancel_requested = True
        lifecycle.close_if_cancelled(session, job)
    assert uploads.statuses(later) == {"2.png": FileStatus.UNPROCESSED}
    assert rest(uploads, first).left == 1


def test_a_sidecar_waits_for_its_picture_and_is_settled_when_both_came_again(uploads: Uploads) -> None:
    files = {"1.txt": b"one", "1.png": picture(1)}
    first = broken_off(uploads, files, {"1.txt": files["1.txt"]})
    assert rest(uploads, first) == Rest(left=1, came=0, rows=1, may_retry=True)
    later = uploads.upload({"1.png": files["1.png"]}, index=False)
    assert rest(uploads, first) == Rest(left=0, came=1, rows=1, may_retry=True)
    assert earlier(uploads, later) == [EarlierRows(first, 1)]
    uploads.upload(files, index=False)
    assert rest(uploads, first) == Rest(left=0, came=1, rows=0)


def test_of_a_collection_that_lacks_nothing_one_query_is_enough(uploads: Uploads) -> None:
    def statements(job_id: UUID) -> list[str]:
        executed: list[str] = []

        def note(*arguments: Any) -> None:
            executed.append(arguments[2].partition(" ")[0])

        with uploads.world.sessions() as session:
            job = session.get_one(Job, job_id)
            sa.event.listen(session.connection(), "before_cursor_execute", note)
            settle(session, job)
        return executed

    key = uploads.upload({"1.png": picture(1)}, index=False)
    assert statements(key) == ["SELECT"]
    broken_off(uploads, FILES, SENT)
    assert statements(key) == ["SELECT", "UPDATE", "UPDATE", "UPDATE", "UPDATE"]
