"""A retry reads files again whose rows or parts were refused, for these only."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from PIL import Image
from tests.unit.media.films import film
from tests.unit.media.test_parts import pages, plain
from tests.unit.uploads.conftest import Uploads, packed, picture

from retllm.db.enums import FileStatus, ItemState, JobState, Stage
from retllm.db.jobs import Job
from retllm.db.session import transaction
from retllm.db.tables import Item
from retllm.errors import Conflict
from retllm.history import control
from retllm.history.file_counts import count_not_kept, file_counts
from retllm.history.job_views import job_view
from retllm.media.ingest import delete_item
from retllm.media.parts import BrokenPart, RenderedPart, read_parts
from retllm.queue import lifecycle
from retllm.uploads import whole_files
from retllm.uploads.kept import drop_old
from retllm.uploads.retry import retry_rejected
from retllm.uploads.views import has_kept_rejected

SHEET = b"file,caption\na.png,from the sheet\nb.png,another\n,a text\n"
ROWS = {"a.csv, row 2": FileStatus.UPDATED, "a.csv, row 3": FileStatus.REJECTED, "a.csv, row 4": FileStatus.REJECTED}
RETRIED = ROWS | {"a.csv, row 3": FileStatus.UPDATED}


def retry(uploads: Uploads, job_id: UUID) -> None:
    with transaction(uploads.world.sessions) as session:
        job = lifecycle.lock_job(session, job_id)
        assert job is not None
        retry_rejected(session, job)
    uploads.run(job_id)


def rows(uploads: Uploads, job_id: UUID) -> dict[str, FileStatus]:
    return {name: status for name, status in uploads.statuses(job_id).items() if ", row" in name}


def set_text(uploads: Uploads, name: str, text: str) -> None:
    with transaction(uploads.world.sessions) as session:
        session.execute(sa.update(Item).where(Item.name == name).values(text=text))


def texts(uploads: Uploads) -> dict[str, str | None]:
    return {name: item.text for name, item in uploads.items().items()}


@pytest.mark.parametrize("packing", ["alone", "in an archive"])
def test_a_row_whose_picture_came_later_is_applied(uploads: Uploads, packing: str) -> None:
    files = {"a.png": picture(1), "a.csv": SHEET}
    first = uploads.upload({"all.zip": packed(files)} if packing == "in an archive" else files, index=False)
    assert rows(uploads, first) == ROWS
    uploads.upload({"b.png": picture(2)}, index=False)
    # what was changed since stays
    set_text(uploads, "a.png", "by hand")
    for _ in range(2):
        with uploads.world.sessions() as session:
            assert has_kept_rejected(session, first)
        retry(uploads, first)
        assert rows(uploads, first) == RETRIED
        assert texts(uploads) == {"a.png": "by hand", "b.png": "another"}
        uploads.check()
    assert len(uploads.stored("uploads/")) == 1


@pytest.mark.parametrize("packing", ["alone", "in an archive"])
@pytest.mark.parametrize(
    ("name", "data"),
    [("a.tif", pages(3)), ("a.pdf", pages(3, "PDF")), ("a.mp4", film(plain(3), frames=15))],
    ids=["TIFF", "PDF", "film"],
)
def test_a_part_that_was_refused_is_read_again_and_the_others_are_left_alone(
    uploads: Uploads, name: str, data: bytes, packing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {2, 3}

    def with_broken_parts(*args: Any) -> Iterator[RenderedPart | BrokenPart]:
        for number, part in enumerate(read_parts(*args), 1):
            which = (part.page, part.pages, part.seconds)
            yield BrokenPart(*which, "the decoder crashed") if number in broken else part

    def became(job_id: UUID) -> list[FileStatus]:
        return [status for row, status in uploads.statuses(job_id).items() if row.startswith(f"{name},")]

    monkeypatch.setattr(whole_files, "read_parts", with_broken_parts)
    files = {"all.zip": packed({name: data})} if packing == "in an archive" else {name: data}
    job_id = uploads.upload(files, index=False)
    assert became(job_id) == [FileStatus.ADDED, FileStatus.REJECTED, FileStatus.REJECTED]
    with uploads.world.sessions() as session:
        assert file_counts(session, [job_id])[job_id].parts == {FileStatus.REJECTED: {"page": 2}}
    (first,) = uploads.items().values()
    set_text(uploads, first.name, "by hand")
    broken.discard(2)
    retry(uploads, job_id)
    assert became(job_id) == [FileStatus.ADDED, FileStatus.ADDED, FileStatus.REJECTED]
    assert [item.text for item in uploads.items().values()] == ["by hand", None]
    uploads.check()
    with uploads.world.sessions() as session:
        delete_item(session, uploads.context.storage, session.get_one(Item, first.id))
    broken.clear()
    retry(uploads, job_id)
    assert became(job_id) == [FileStatus.ADDED] * 3
    # what was deleted since stays deleted
    states = [item.state for item in uploads.items().values()]
    assert states == [ItemState.DELETED, ItemState.READY, ItemState.READY]
    uploads.check()
    assert uploads.stored("uploads/") == []


def test_a_second_caption_of_a_whole_file_is_refused_for_every_page_by_a_retry_too(uploads: Uploads) -> None:
    whole = {
        "scan.tif": pages(3),
        "a.csv": b"file,caption\nscan.tif,whole\n",
        "b.csv": b"file,caption\nb.png,another\nscan.tif,second\n",
    }
    job_id = uploads.upload(whole, index=False)
    before = texts(uploads)
    assert list(before.values()) == ["whole"] * 3
    refused = uploads.rows(job_id)["b.csv, row 3"].error
    assert "another caption than a.csv, row 2" in (refused or "")
    uploads.upload({"b.png": picture(2)}, index=False)
    retry(uploads, job_id)
    assert rows(uploads, job_id)["b.csv, row 2"] is FileStatus.UPDATED
    assert uploads.rows(job_id)["b.csv, row 3"].error == refused
    assert texts(uploads) == before | {"b.png": "another"}
    uploads.check()


def progress(uploads: Uploads, job_id: UUID) -> float:
    with uploads.world.sessions() as session:
        return job_view(session, session.get_one(Job, job_id)).progress


def test_the_progress_of_a_retry_begins_anew(uploads: Uploads) -> None:
    uploads.context.settings.max_pixels = 1000
    large = {"c.png": picture(3, (50, 40)), "d.png": picture(4, (50, 40))}
    job_id = uploads.upload({"a.png": picture(1), "b.png": picture(2), **large})
    assert progress(uploads, job_id) == 1.0
    uploads.context.settings.max_pixels = 3000
    with transaction(uploads.world.sessions) as session:
        retry_rejected(session, lifecycle.lock_job(session, job_id))
    assert progress(uploads, job_id) == 0.0
    uploads.run(job_id, Stage.MEDIA)
    # both are read, and their vectors are missing
    assert progress(uploads, job_id) == 0.5
    uploads.run(job_id)
    assert progress(uploads, job_id) == 1.0


def test_the_progress_of_a_retry_of_rows_begins_anew(uploads: Uploads) -> None:
    job_id = uploads.upload({"a.png": picture(1), "a.csv": SHEET}, index=False)
    uploads.upload({"b.png": picture(2)}, index=False)
    for _ in range(2):
        with transaction(uploads.world.sessions) as session:
            retry_rejected(session, lifecycle.lock_job(session, job_id))
        assert progress(uploads, job_id) == 0.0
        uploads.run(job_id)
        assert progress(uploads, job_id) == 1.0


def test_empty_rows_are_told_once_however_often_a_sheet_is_read(uploads: Uploads) -> None:
    sheet = b"file,caption\n" + b"a.png,\n" * 25 + b"b.png,words\n"
    job_id = uploads.upload({"a.png": picture(1), "a.csv": sheet}, index=False)
    before = rows(uploads, job_id)
    assert before["a.csv, row 2"] == FileStatus.IGNORED
    assert before["a.csv, row 27"] == FileStatus.REJECTED
    for _ in range(2):
        retry(uploads, job_id)
        assert rows(uploads, job_id) == before
        with uploads.world.sessions() as session:
            counts = file_counts(session, [job_id])[job_id].counts
        assert (counts["ignored"], counts["rejected"]) == (25, 1)
    uploads.upload({"b.png": picture(2)}, index=False)
    retry(uploads, job_id)
    assert rows(uploads, job_id) == before | {"a.csv, row 27": FileStatus.UPDATED}


def test_a_sheet_without_refused_rows_is_not_kept(uploads: Uploads) -> None:
    job_id = uploads.upload({"a.png": picture(1), "b.png": picture(2), "a.csv": SHEET[:-9]}, index=False)
    assert set(rows(uploads, job_id).values()) == {FileStatus.UPDATED}
    assert uploads.stored("uploads/") == []


def test_a_sheet_whose_rows_are_all_applied_is_kept_no_longer(uploads: Uploads) -> None:
    job_id = uploads.upload({"a.png": picture(1), "a.csv": SHEET[:-9]}, index=False)
    assert len(uploads.stored("uploads/")) == 1
    uploads.upload({"b.png": picture(2)}, index=False)
    retry(uploads, job_id)
    assert set(rows(uploads, job_id).values()) == {FileStatus.UPDATED}
    assert uploads.stored("uploads/") == []
    with transaction(uploads.world.sessions) as session, pytest.raises(Conflict):
        retry_rejected(session, lifecycle.lock_job(session, job_id))


def test_a_retry_leaves_the_caption_of_the_sheet_that_counted(uploads: Uploads) -> None:
    sheets = {"1.csv": b"file,caption\na.png,first\n", "2.csv": b"file,caption\na.png,second\nno.png,x\n"}
    job_id = uploads.upload({"a.png": picture(1), **sheets}, index=False)
    before = rows(uploads, job_id)
    assert before["2.csv, row 2"] == FileStatus.REJECTED
    retry(uploads, job_id)
    assert rows(uploads, job_id) == before
    assert texts(uploads) == {"a.png": "first"}
    assert "'a.png' another caption than 1.csv, row 2" in str(uploads.rows(job_id)["2.csv, row 2"].error)


def test_texts_that_were_deleted_since_stay_deleted(uploads: Uploads) -> None:
    sheet = b"text\nfirst\n" + b"x" * 30_000 + b"\nthird\n"
    job_id = uploads.upload({"a.csv": sheet}, index=False)
    assert rows(uploads, job_id)["a.csv, row 3"] == FileStatus.REJECTED
    with uploads.world.sessions() as session:
        delete_item(session, uploads.context.storage, session.get_one(Item, uploads.items()["third"].id))
    before = rows(uploads, job_id)
    retry(uploads, job_id)
    assert rows(uploads, job_id) == before
    assert [name for name, item in uploads.items().items() if item.state == "ready"] == ["first"]


def test_rows_of_one_picture_that_were_refused_in_part_become_one_caption(uploads: Uploads) -> None:
    too_long = "y" * (uploads.context.settings.max_text_chars // 2)
    sheet = f"file,caption\na.png,one\na.png,{too_long * 3}\n".encode()
    job_id = uploads.upload({"a.png": picture(1), "a.csv": sheet}, index=False)
    assert rows(uploads, job_id) == {"a.csv, row 2": FileStatus.UPDATED, "a.csv, row 3": FileStatus.REJECTED}
    uploads.context.settings.max_text_chars *= 4
    retry(uploads, job_id)
    assert rows(uploads, job_id) == {"a.csv, row 2": FileStatus.UPDATED}
    assert texts(uploads) == {"a.png": f"one\n{too_long * 3}"}


def test_the_bytes_of_a_sheet_are_dropped_with_time(uploads: Uploads) -> None:
    job_id = uploads.upload({"a.csv": SHEET}, index=False)
    assert drop_old(uploads.world.sessions, uploads.context.storage, timedelta(0)) == 1
    with uploads.world.sessions() as session:
        assert not has_kept_rejected(session, job_id)
    assert uploads.stored("uploads/") == []


def test_a_sheet_that_waited_when_its_upload_was_cancelled_is_read(uploads: Uploads) -> None:
    job_id = uploads.open(index=False)
    uploads.send(job_id, {"a.png": picture(1), "b.png": picture(2), "a.csv": SHEET})
    uploads.run(job_id)
    with transaction(uploads.world.sessions) as session:
        control.cancel_job(session, uploads.world.user, job_id)
    assert texts(uploads) == {"a.png": None, "b.png": None}
    retry(uploads, job_id)
    uploads.close(job_id)
    uploads.run(job_id)
    assert texts(uploads) == {"a.png": "from the sheet", "b.png": "another"}


def test_a_cancelled_upload_whose_bytes_are_dropped_has_nothing_to_try_again(uploads: Uploads) -> None:
    job_id = uploads.open(index=False)
    uploads.send(job_id, {"a.png": picture(1), "a.csv": SHEET})
    with transaction(uploads.world.sessions) as session:
        control.cancel_job(session, uploads.world.user, job_id)
    assert drop_old(uploads.world.sessions, uploads.context.storage, timedelta(0)) == 2
    with transaction(uploads.world.sessions) as session:
        job = lifecycle.lock_job(session, job_id)
        assert job is not None
        with pytest.raises(Conflict, match="keeps nothing of this upload"):
            retry_rejected(session, job)
    assert uploads.world.job(job_id).state is JobState.CANCELLED


def test_what_is_too_large_is_kept_in_its_archive_only(uploads: Uploads) -> None:
    pixels = bytes(7 * n * n % 251 for n in range(3 * 64 * 64))
    with io.BytesIO() as file:
        Image.frombytes("RGB", (64, 64), pixels).save(file, "BMP")
        large = file.getvalue()
    before, uploads.context.settings.max_file_bytes = uploads.context.settings.max_file_bytes, len(large) - 1
    job_id = uploads.upload({"alone.bmp": large, "all.zip": packed({"packed.bmp": large})}, index=False)
    told = {row.name: str(row.error) for row in uploads.rows(job_id).values()}
    limit = "The file is larger than 12.3 kB (12,341 bytes), the limit set by RETLLM_MAX_FILE_BYTES"
    assert told["alone.bmp"] == f"{limit}, and is not kept: raise the limit and send it again."
    assert told["packed.bmp"] == f"{limit}."
    uploads.context.settings.max_file_bytes = before
    retry(uploads, job_id)
    assert uploads.statuses(job_id) == {"alone.bmp": "rejected", "all.zip": "read", "packed.bmp": "added"}
    with uploads.world.sessions() as session:
        assert count_not_kept(session, job_id) == 1
        assert not has_kept_rejected(session, job_id)


def test_an_archive_inside_an_archive_keeps_its_reason(uploads: Uploads) -> None:
    inner = packed({"c.png": picture(3)})
    job_id = uploads.upload({"all.zip": packed({"a.png": picture(1), "inner.zip": inner})}, index=False)
    before = {row.name: (row.status, row.error) for row in uploads.rows(job_id).values()}
    assert "inside an archive" in str(before["inner.zip"][1])
    retry(uploads, job_id)
    assert {row.name: (row.status, row.error) for row in uploads.rows(job_id).values()} == before
    assert uploads.world.job(job_id).state is JobState.SUCCEEDED
