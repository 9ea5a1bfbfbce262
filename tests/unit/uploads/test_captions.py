"""The captions of an upload are written with the end of their unit, all or nothing, whatever earlier attempts did."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session
from tests.unit.uploads.conftest import Uploads, picture
from tests.unit.uploads.test_worker import lose

from retllm.db.enums import FileStatus, Stage
from retllm.db.session import transaction
from retllm.db.tables import Item
from retllm.errors import MediaRejected
from retllm.media.ingest import delete_item
from retllm.media.outcomes import rejected
from retllm.queue import claim as claims
from retllm.uploads import captions, unsent
from retllm.uploads.receive import rejection

FILES = {
    "a.png": picture(1),
    "b.png": picture(2),
    "rows.csv": b"file,caption\na.png,from the sheet\nno.png,nothing\n",
    "b.txt": b"from the sidecar",
    "note.txt": b"a text",
    "texts.csv": b"text\nfirst\nsecond\nfirst\n",
}
OUTCOMES = {
    "a.png": FileStatus.ADDED,
    "b.png": FileStatus.ADDED,
    "rows.csv": FileStatus.READ,
    "rows.csv, row 2": FileStatus.UPDATED,
    "rows.csv, row 3": FileStatus.REJECTED,
    "b.txt": FileStatus.UPDATED,
    "note.txt": FileStatus.ADDED,
    "texts.csv": FileStatus.READ,
    "texts.csv, row 2": FileStatus.ADDED,
    "texts.csv, row 3": FileStatus.ADDED,
    "texts.csv, row 4": FileStatus.DUPLICATE,
}
TEXTS = {
    "a.png": "from the sheet",
    "b.png": "from the sidecar",
    "note.txt": "a text",
    "first": "first",
    "second": "second",
}


def ready_for_captions(uploads: Uploads, files=FILES):
    job_id = uploads.open(index=False)
    uploads.send(job_id, files)
    uploads.close(job_id)
    (unit,) = uploads.ready(job_id)
    assert uploads.do(unit)
    (unit,) = uploads.ready(job_id)
    return job_id, unit


def test_an_attempt_that_is_lost_before_its_end_leaves_nothing_and_the_next_one_tells_the_truth(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, unit = ready_for_captions(uploads)
    complete = claims.complete
    seen = []

    def late(sessions, claim, write):
        if not seen:
            seen.append(uploads.items())
            lose(uploads, unit)
        return complete(sessions, claim, write)

    monkeypatch.setattr(captions, "complete", late)
    assert uploads.do(unit)
    after = uploads.items()
    assert {name: item.text for name, item in after.items()} == {"a.png": None, "b.png": None}
    assert list(seen[0]) == list(after)
    uploads.run(job_id)
    assert uploads.statuses(job_id) == OUTCOMES
    assert {name: item.text for name, item in uploads.items().items()} == TEXTS
    uploads.check()


def test_an_attempt_that_breaks_while_it_writes_leaves_nothing(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, unit = ready_for_captions(uploads)
    write_outcomes = captions._write_outcomes
    broken = [1]

    def write(session: Session, written) -> None:
        write_outcomes(session, written)
        if any(file.name == "note.txt" for file, _ in written) and broken:
            broken.pop()
            raise OSError("the worker broke")

    monkeypatch.setattr(captions, "_write_outcomes", write)
    assert uploads.do(unit)
    assert {name: item.text for name, item in uploads.items().items()} == {"a.png": None, "b.png": None}
    assert set(uploads.statuses(job_id)) == set(FILES)
    uploads.run(job_id)
    assert uploads.statuses(job_id) == OUTCOMES
    uploads.check()


def test_a_transaction_that_is_repeated_has_the_same_outcomes(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, unit = ready_for_captions(uploads)
    complete = claims.complete

    def repeated(sessions, claim, write):
        def twice(session, job):
            with session.begin_nested() as first:
                write(session, job)
                first.rollback()
            session.expire_all()
            return write(session, job)

        return complete(sessions, claim, twice)

    monkeypatch.setattr(captions, "complete", repeated)
    assert uploads.do(unit)
    assert uploads.statuses(job_id) == OUTCOMES
    uploads.check()


def test_a_picture_that_is_deleted_while_its_sheet_is_read_has_no_caption(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"a.png": picture(1), "b.png": picture(2), "c.csv": b"file,caption\na.png,one\nb.png,two\n"}
    job_id, unit = ready_for_captions(uploads, files)
    complete = claims.complete

    def delete_first(sessions, claim, write):
        with sessions() as session:
            delete_item(
                session, uploads.context.storage, session.scalars(sa.select(Item).filter_by(name="a.png")).one()
            )
        return complete(sessions, claim, write)

    monkeypatch.setattr(captions, "complete", delete_first)
    assert uploads.do(unit)
    rows = uploads.rows(job_id)
    assert rows["c.csv, row 2"].error == "Row 2 names a picture that was deleted during the upload."
    assert rows["c.csv, row 3"].status is FileStatus.UPDATED
    uploads.check()


def test_the_job_is_not_locked_while_a_sheet_is_read(uploads: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id, unit = ready_for_captions(uploads)
    read = captions.Captioner.read
    locked = []

    def reading(self, documents):
        for writing in read(self, documents):
            with transaction(uploads.world.sessions) as session:
                session.execute(sa.text("SELECT 1 FROM jobs WHERE id = :id FOR UPDATE NOWAIT"), {"id": job_id})
                locked.append(False)
            yield writing

    monkeypatch.setattr(captions.Captioner, "read", reading)
    assert uploads.do(unit)
    assert len(locked) >= 4
    assert [payload.get("pass") for payload in uploads.payloads(job_id, Stage.MEDIA)] == [None, "captions"]
    assert uploads.statuses(job_id) == OUTCOMES


def test_what_an_outcome_says_has_no_character_that_the_database_refuses() -> None:
    error = MediaRejected("It says a\0b\ud800.")
    outcome = rejected("c.csv", error).model_copy(update={"remark": "c\0\udfff"})
    columns = captions.columns_of(outcome)
    assert (columns["error"], columns["remark"]) == ("It says a b .", "c")
    assert rejection(error)["error"] == "It says a b ."


@pytest.mark.parametrize("text", ["Alt/das alte Haus.txt", "Alt/Das alte Haus.jpg.txt"])
def test_the_text_of_a_picture_that_never_came_is_no_item(uploads: Uploads, text: str) -> None:
    job_id = uploads.open(index=False, expected=3)
    with transaction(uploads.world.sessions) as session:
        unsent.expect(session, job_id, 0, ["Alt/Das alte Haus.jpg", text, "Das alte Haus.txt"])
    uploads.send(job_id, {text: b"an old house", "Das alte Haus.txt": b"in another folder"})
    uploads.close(job_id)
    uploads.run(job_id)
    rows = uploads.rows(job_id)
    assert rows["Das alte Haus.txt"].status is FileStatus.ADDED
    assert (rows[text].status, rows[text].item_id) == (FileStatus.NOT_SENT, None)
    assert "has the caption of 'Das alte Haus.jpg', which was not sent" in str(rows[text].error)

    rest = uploads.open(index=False)
    uploads.send(rest, {"Alt/Das alte Haus.jpg": picture(1), text: b"an old house"})
    uploads.close(rest)
    uploads.run(rest)
    assert set(uploads.statuses(rest).values()) == {FileStatus.ADDED, FileStatus.UPDATED}
    uploads.check()
