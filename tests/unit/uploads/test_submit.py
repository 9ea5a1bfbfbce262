"""An upload takes files until it is closed, cancelled or deleted, and every request makes units of bounded size."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa
from tests.unit.deleting import delete_collection
from tests.unit.uploads.conftest import Uploads, packed, picture

from retllm.db.enums import FileStatus, JobState, Stage
from retllm.db.jobs import Job
from retllm.db.session import transaction
from retllm.db.uploads import Upload
from retllm.errors import Conflict, NotFound
from retllm.history import control
from retllm.uploads import submit


def test_a_closed_upload_takes_no_more_files_and_closing_twice_changes_nothing(uploads: Uploads) -> None:
    job_id = uploads.open()
    uploads.send(job_id, {"a.png": picture(1)})
    uploads.close(job_id)
    with pytest.raises(Conflict, match="takes no more files"):
        uploads.send(job_id, {"b.png": picture(2)})
    uploads.run(job_id)
    uploads.close(job_id)
    assert uploads.statuses(job_id) == {"a.png": FileStatus.ADDED}
    assert uploads.world.job(job_id).state is JobState.SUCCEEDED


def test_a_cancelled_upload_takes_no_more_files(uploads: Uploads) -> None:
    job_id = uploads.open()
    with transaction(uploads.world.sessions) as session:
        control.cancel_job(session, uploads.world.user, job_id)
    assert uploads.world.job(job_id).state is JobState.CANCELLED
    with pytest.raises(Conflict, match="upload was cancelled"):
        uploads.send(job_id, {"b.png": picture(2)})
    uploads.close(job_id)
    assert uploads.world.job(job_id).state is JobState.CANCELLED


def test_an_upload_goes_with_its_collection(uploads: Uploads) -> None:
    job_id = uploads.open()
    uploads.send(job_id, {"a.png": picture(1)})
    (unit,) = uploads.ready(job_id)
    delete_collection(uploads.world.sessions, uploads.context.storage, uploads.world.collection_id)
    with pytest.raises(NotFound, match="no such upload"):
        uploads.send(job_id, {"b.png": picture(2)})
    with pytest.raises(NotFound, match="no such upload"):
        uploads.close(job_id)
    assert not uploads.do(unit)


def test_an_empty_upload_succeeds_when_it_is_closed(uploads: Uploads) -> None:
    job_id = uploads.upload({})
    assert uploads.world.job(job_id).state is JobState.SUCCEEDED
    uploads.check()


def test_the_same_key_opens_one_upload(uploads: Uploads) -> None:
    first = uploads.open(idempotency_key="k")
    assert uploads.open(idempotency_key="k") == first
    with pytest.raises(Conflict):
        uploads.open(idempotency_key="k", index=False)


def test_units_have_a_bounded_number_of_files_and_bytes(uploads: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "UNIT_FILES", 3)
    job_id = uploads.open(index=False)
    keys = uploads.send(job_id, {f"{n}.png": picture(n) for n in range(7)})
    sizes = [len(payload["items"]) for payload in uploads.payloads(job_id, Stage.MEDIA)]
    assert sizes == [3, 3, 1]
    monkeypatch.setattr(submit, "_UNIT_BYTES", 2 * len(picture(1)))
    keys += uploads.send(job_id, {f"{n}.png": picture(n) for n in range(10, 15)})
    payloads = uploads.payloads(job_id, Stage.MEDIA)
    assert [len(payload["items"]) for payload in payloads[3:]] == [2, 2, 1]
    assert [item for payload in payloads for item in payload["items"]] == [str(key) for key in keys]


def test_an_archive_is_a_unit_of_its_own_and_documents_wait_for_all_pictures(uploads: Uploads) -> None:
    job_id = uploads.open(index=False)
    files = {"a.png": picture(1), "b.csv": b"file,caption\na.png,x\n", "c.zip": packed({"d.png": picture(2)})}
    keys = uploads.send(job_id, files)
    units = [payload["items"] for payload in uploads.payloads(job_id, Stage.MEDIA)]
    assert sorted(units) == sorted([[str(keys[0])], [str(keys[2])]])
    uploads.run(job_id)
    assert uploads.rows(job_id)["b.csv"].status is FileStatus.WAITING
    uploads.close(job_id)
    assert [payload.get("pass") for payload in uploads.payloads(job_id, Stage.MEDIA)][-1] == "captions"


def test_an_upload_that_was_left_behind_is_closed_and_its_files_are_processed(uploads: Uploads) -> None:
    left, used = uploads.open(), uploads.open()
    uploads.send(left, {"a.png": picture(1)})
    with transaction(uploads.world.sessions) as session:
        old = sa.func.now() - timedelta(hours=2)
        session.execute(sa.update(Upload).where(Upload.id == left).values(active_at=old))
    submit.close_idle(uploads.world.sessions, timedelta(hours=1))
    uploads.run(left)
    with uploads.world.sessions() as session:
        states = dict(iter(session.execute(sa.select(Job.id, Job.state))))
    assert states == {left: JobState.SUCCEEDED, used: JobState.QUEUED}
