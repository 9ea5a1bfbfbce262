"""Every file of an upload gets one outcome, whatever it is and whatever else happens to it."""

from __future__ import annotations

import dataclasses
import errno
import io
from collections.abc import Callable
from datetime import timedelta
from typing import BinaryIO

import pytest
import sqlalchemy as sa
from tests.unit.media.handmade_tars import tarred
from tests.unit.uploads.conftest import Files, Uploads, packed, picture

from retllm.db.enums import FileStatus, ItemKind, ItemState, JobState, Stage, UnitState
from retllm.db.jobs import Unit
from retllm.db.session import transaction
from retllm.db.tables import Item
from retllm.errors import JobCancelled, StorageFull
from retllm.history import control
from retllm.history.job_views import job_view
from retllm.media.clutter import ClutterCount
from retllm.media.ingest import delete_item
from retllm.media.storage import Storage
from retllm.queue.claim import Lease
from retllm.queue.dispatcher import Dispatcher
from retllm.queue.worker import WorkerContext
from retllm.uploads.orphans import delete_orphans

ADDED, DUPLICATE, REJECTED = FileStatus.ADDED, FileStatus.DUPLICATE, FileStatus.REJECTED


class Meddling(Storage):
    """A storage that calls functions, each once, before files of items are stored: number of the file -> function."""

    __slots__ = ("before", "count")

    def put(self, key: str, file: BinaryIO) -> int:
        if key.startswith("items/"):
            self._next()
        return Storage.put(self, key, file)

    def copy(self, source: str, key: str) -> None:
        if key.startswith("items/"):
            self._next()
        Storage.copy(self, source, key)

    def _next(self) -> None:
        self.count += 1
        self.before.pop(self.count, lambda: None)()


def meddled(uploads: Uploads, before: dict[int, Callable[[], object]]) -> WorkerContext:
    """Return a worker on which something happens before the n-th file of an item is stored."""
    storage = Meddling(uploads.context.storage.url)
    storage.count, storage.before = 0, before
    return dataclasses.replace(uploads.context, storage=storage, worker="meddled")


def lose(uploads: Uploads, unit: Unit) -> None:
    """Let the lease of a unit run out, and let a dispatcher take the unit back."""
    with transaction(uploads.world.sessions) as session:
        past = sa.func.now() - sa.text("interval '1 second'")
        session.execute(sa.update(Unit).where(Unit.id == unit.id).values(lease_until=past))
    assert Dispatcher(uploads.world.sessions, uploads.context.notifier, uploads.world.settings).rescue() == 1


def fail(error: Exception) -> Callable[[], None]:
    def raised() -> None:
        raise error

    return raised


def test_files_of_every_kind_have_their_outcomes(uploads: Uploads) -> None:
    files = {
        "a.png": picture(1),
        "b.png": picture(1),
        "broken.png": picture(2)[:40],
        "note.txt": b"a note",
        "captions.csv": b"file,caption\na.png,one\nno.png,none\n",
        "empty.png": b"",
        "c.zip": packed({"in/d.png": picture(3), "in/a.png": picture(1), "in/.DS_Store": b"x", "z.zip": packed({})}),
        "bad.zip": b"PK\3\4 and no more",
    }
    job_id = uploads.upload(files)
    rows = uploads.rows(job_id)
    expected = {
        "a.png": ADDED,
        "b.png": DUPLICATE,
        "broken.png": REJECTED,
        "note.txt": ADDED,
        "captions.csv": FileStatus.READ,
        "captions.csv, row 2": FileStatus.UPDATED,
        "captions.csv, row 3": REJECTED,
        "empty.png": REJECTED,
        "c.zip": FileStatus.READ,
        "in/d.png": ADDED,
        "in/a.png": DUPLICATE,
        "in/.DS_Store": FileStatus.IGNORED,
        "z.zip": REJECTED,
        "bad.zip": REJECTED,
    }
    assert {name: row.status for name, row in rows.items()} == expected
    assert all(bool(row.error) == (row.status is REJECTED) for row in rows.values())
    assert rows["in/d.png"].parent_id == rows["c.zip"].id
    items = uploads.items()
    assert {name: item.kind for name, item in items.items()} == {
        "a.png": ItemKind.BOTH,
        "note.txt": ItemKind.TEXT,
        "in/d.png": ItemKind.IMAGE,
    }
    assert {row.item_id for row in (rows["b.png"], rows["in/a.png"], rows["captions.csv, row 2"])} == {
        items["a.png"].id
    }
    assert uploads.world.job(job_id).state is JobState.SUCCEEDED
    uploads.check()


def test_a_picture_that_came_before_is_a_duplicate(uploads: Uploads) -> None:
    first = uploads.upload({"a.png": picture(1)})
    second = uploads.upload({"other/b.png": picture(1), "c.zip": packed({"d.png": picture(1)})})
    item = uploads.items()["a.png"].id
    rows = uploads.rows(second)
    assert [(rows[name].status, rows[name].item_id) for name in ("other/b.png", "d.png")] == [(DUPLICATE, item)] * 2
    assert uploads.statuses(first) == {"a.png": ADDED}
    uploads.check()


def test_of_two_uploads_of_a_picture_at_the_same_time_one_adds_it(uploads: Uploads) -> None:
    first, second = uploads.open(), uploads.open()
    for job_id in (first, second):
        uploads.send(job_id, {"a.png": picture(1)})
        uploads.close(job_id)
    (slow,) = uploads.ready(first)
    (fast,) = uploads.ready(second)
    assert uploads.do(slow, meddled(uploads, {1: lambda: uploads.do(fast)}))
    assert (uploads.statuses(second), uploads.statuses(first)) == ({"a.png": ADDED}, {"a.png": DUPLICATE})
    uploads.run(first)
    uploads.run(second)
    assert len(uploads.items()) == 1
    uploads.check()


def test_a_worker_that_lost_its_unit_writes_nothing_and_deletes_nothing(uploads: Uploads) -> None:
    """It fails in the middle, after another worker has done the unit with files of the same keys."""
    job_id = uploads.open(index=False)
    uploads.send(job_id, {"a.png": picture(1), "b.png": picture(2)})
    (unit,) = uploads.ready(job_id)

    def meanwhile() -> None:
        lose(uploads, unit)
        assert uploads.do(unit)
        raise OSError("the storage can't be reached")

    assert uploads.do(unit, meddled(uploads, {2: meanwhile}))
    uploads.close(job_id)
    assert uploads.statuses(job_id) == {"a.png": ADDED, "b.png": ADDED}
    assert len(uploads.items()) == 2
    uploads.check()


def test_a_slow_worker_that_lost_its_unit_adds_nothing(uploads: Uploads) -> None:
    job_id = uploads.open(index=False)
    uploads.send(job_id, {"a.png": picture(1)})
    uploads.close(job_id)
    (unit,) = uploads.ready(job_id)

    def meanwhile() -> None:
        lose(uploads, unit)
        assert uploads.do(unit)

    before = uploads.items()
    assert uploads.do(unit, meddled(uploads, {2: meanwhile}))
    assert (before, list(uploads.items())) == ({}, ["a.png"])
    assert [one.state for one in uploads.world.units(job_id)] == [UnitState.DONE]
    uploads.check()


def test_a_picture_that_is_deleted_during_the_upload_is_added_anew(uploads: Uploads) -> None:
    uploads.upload({"a.png": picture(1)})
    job_id = uploads.open()
    uploads.send(job_id, {"b.png": picture(1), "c.png": picture(2)})
    uploads.close(job_id)

    def delete() -> None:
        with uploads.world.sessions() as session:
            item = session.scalars(sa.select(Item).where(Item.name == "a.png")).one()
            delete_item(session, uploads.context.storage, item)

    (unit,) = uploads.ready(job_id)
    # b.png is known by then
    assert uploads.do(unit, meddled(uploads, {2: delete}))
    uploads.run(job_id)
    assert uploads.statuses(job_id) == {"b.png": ADDED, "c.png": ADDED}
    states = {name: item.state for name, item in uploads.items().items()}
    assert states == {"a.png": ItemState.DELETED, "b.png": ItemState.READY, "c.png": ItemState.READY}
    uploads.check()


def test_a_cancelled_upload_keeps_what_was_added_and_ends(uploads: Uploads) -> None:
    job_id = uploads.open(index=False)
    uploads.send(job_id, {"a.png": picture(1)})
    uploads.run(job_id)
    uploads.send(job_id, {"b.png": picture(2)})
    uploads.send(job_id, {"c.png": picture(3)})
    running, _ = uploads.ready(job_id)

    def cancel() -> None:
        with transaction(uploads.world.sessions) as session:
            control.cancel_job(session, uploads.world.user, job_id)

    assert uploads.do(running, meddled(uploads, {1: cancel}))
    job = uploads.world.job(job_id)
    assert (job.state, job.finished_at is not None) == (JobState.CANCELLED, True)
    assert uploads.statuses(job_id) == {
        "a.png": ADDED,
        "b.png": FileStatus.UNPROCESSED,
        "c.png": FileStatus.UNPROCESSED,
    }
    assert "cancelled before" in str(uploads.rows(job_id)["c.png"].error)
    assert list(uploads.items()) == ["a.png"]
    # what the cancelled attempt stored is left to the sweeper
    uploads.check(left=lambda key: key.startswith("items/"))
    assert delete_orphans(uploads.world.sessions, uploads.context.storage, age=timedelta(seconds=-60)) == 1
    uploads.check()
    with transaction(uploads.world.sessions) as session:
        control.retry_job(session, uploads.world.user, job_id)
    uploads.run(job_id)
    assert set(uploads.statuses(job_id).values()) == {ADDED}
    assert uploads.world.job(job_id).state is JobState.SUCCEEDED
    uploads.check()


def test_a_dead_unit_rejects_only_its_file_and_a_retry_brings_it_in(uploads: Uploads) -> None:
    """A unit that fails each time is split, and in the end one file has the reason."""
    job_id = uploads.open()
    uploads.send(job_id, {f"{name}.png": picture(n) for n, name in enumerate("abc")})
    uploads.close(job_id)
    lost = uploads.rows(job_id)["b.png"].file_key
    assert lost is not None
    with uploads.context.storage.open(lost) as file:
        kept = file.read()
    uploads.context.storage.delete(lost)
    uploads.run(job_id)
    rows = uploads.rows(job_id)
    assert {name: row.status for name, row in rows.items()} == {"a.png": ADDED, "b.png": REJECTED, "c.png": ADDED}
    assert (rows["b.png"].error_code, rows["b.png"].error) == ("failed", "The stored file is missing.")
    job = uploads.world.job(job_id)
    assert (job.state, job.error) == (JobState.PARTIAL, "b.png: The stored file is missing.")
    uploads.context.storage.put(lost, io.BytesIO(kept))
    uploads.check()
    with transaction(uploads.world.sessions) as session:
        control.retry_job(session, uploads.world.user, job_id)
    assert uploads.rows(job_id)["b.png"].status is FileStatus.WAITING
    uploads.run(job_id)
    assert set(uploads.statuses(job_id).values()) == {ADDED}
    job = uploads.world.job(job_id)
    assert (job.state, job.error) == (JobState.SUCCEEDED, None)
    uploads.check()


@pytest.mark.parametrize("error", [StorageFull(), OSError(errno.EHOSTUNREACH, "no route to the storage")], ids=str)
def test_a_full_or_unreachable_storage_is_tried_again_and_rejects_nothing(uploads: Uploads, error: Exception) -> None:
    job_id = uploads.open()
    uploads.send(job_id, {"a.png": picture(1), "b.png": picture(2)})
    uploads.close(job_id)
    (unit,) = uploads.ready(job_id)
    assert uploads.do(unit, meddled(uploads, {3: fail(error)}))
    assert set(uploads.statuses(job_id).values()) == {FileStatus.WAITING}
    (again,) = uploads.ready(job_id)
    assert (again.id, again.attempt) == (unit.id, 1)
    uploads.run(job_id)
    assert uploads.statuses(job_id) == {"a.png": ADDED, "b.png": ADDED}
    uploads.check()


def test_an_archive_becomes_units_of_its_entries(uploads: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retllm.uploads.archive_files.UNIT_ENTRIES", 2)
    job_id = uploads.open(index=False)
    uploads.send(job_id, {"c.zip": packed({f"{n}.png": picture(n) for n in range(5)})})
    (unit,) = uploads.ready(job_id)
    uploads.do(unit)
    assert [len(one.payload["items"]) for one in uploads.ready(job_id)] == [2, 2, 1]
    assert [(row.status, row.entry) for row in uploads.rows(job_id).values()] == [
        (FileStatus.READ, None),
        *((FileStatus.WAITING, number) for number in range(5)),
    ]
    uploads.close(job_id)
    uploads.run(job_id)
    assert list(uploads.items()) == [f"{n}.png" for n in range(5)]
    with uploads.world.sessions() as session:
        (stage,) = job_view(session, uploads.world.job(job_id)).stages
    # the archive and its entries
    assert (stage.stage, stage.items_total, stage.items_done) == (Stage.MEDIA, 6, 6)
    uploads.check()


@pytest.mark.parametrize("pack", [tarred, packed])
def test_a_cancel_ends_the_listing_of_an_archive(
    pack: Callable[[Files], bytes], uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = uploads.open(index=False)
    uploads.send(job_id, {"c.tar": pack({f"{n}.png": b"" for n in range(50)})})
    listed: list[str] = []

    def check(_lease: Lease) -> None:
        if len(listed) == 3:
            raise JobCancelled

    def listing(_clutter: ClutterCount, name: str) -> bool:
        listed.append(name)
        return False

    (unit,) = uploads.ready(job_id)
    with monkeypatch.context() as patched:
        patched.setattr(Lease, "check", check)
        patched.setattr(ClutterCount, "take", listing)
        uploads.do(unit)
    assert listed == ["0.png", "1.png", "2.png"]
    assert list(uploads.statuses(job_id).values()) == [FileStatus.WAITING]
