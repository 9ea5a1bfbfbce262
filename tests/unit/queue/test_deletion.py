"""A collection can be deleted while workers commit to it; the only errors are NotFound and Conflict."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import sqlalchemy as sa
import structlog
from PIL import Image
from tests.unit.deleting import delete_collection
from tests.unit.stand_ins import FakeEmbedder, SilentNotifier

from retllm.db import session as db_session
from retllm.db.jobs import Job, Unit
from retllm.db.session import run_transaction, transaction
from retllm.db.tables import Collection, Embedding, Item, new_id
from retllm.errors import Conflict, NotFound, StaleClaim
from retllm.indexing.submit import submit_index
from retllm.indexing.worker import embed_unit
from retllm.media import records
from retllm.media.ingest import Ingest
from retllm.operations import stuck
from retllm.operations.queues import depths
from retllm.queue.audit import violations
from retllm.queue.dispatcher import Dispatcher
from retllm.queue.routing import Notification, routing_of
from retllm.queue.worker import LeasedUnit, WorkerContext, run_unit
from retllm.search.request import SearchRequest
from retllm.search.submit import submit_search
from retllm.uploads.removal import remove_deleted

pytestmark = pytest.mark.slow

ROUNDS = 12
WORKERS = 3


class WordsWithBarrier(FakeEmbedder):
    """An embedder that waits at a barrier, so that several workers commit at the same time."""

    def __init__(self, barrier: threading.Barrier) -> None:
        self._barrier = barrier

    def embed_images(self, pictures: Sequence[Image.Image], *, query: bool = False) -> np.ndarray:
        rows = super().embed_images(pictures, query=query)
        self._barrier.wait()
        return rows


def _picture(colour: int) -> io.BytesIO:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (colour, 80, 90)).save(stream, "PNG")
    stream.seek(0)
    return stream


def test_a_collection_can_be_deleted_during_commits_uploads_and_searches(
    context: WorkerContext, world, monkeypatch: pytest.MonkeyPatch
) -> None:
    aborted: list[str] = []
    was_undone = db_session.was_undone

    def record(error: sa.exc.DBAPIError) -> bool:
        if was_undone(error):
            aborted.append(str(error.orig))
        return was_undone(error)

    monkeypatch.setattr(db_session, "was_undone", record)
    for number in range(ROUNDS):
        _round(context, world, number)
    assert aborted == []
    assert [str(one) for one in violations(world.sessions, context.storage)] == []


def _round(context: WorkerContext, world, number: int) -> None:
    with transaction(world.sessions) as session:
        collection = Collection(id=new_id(), owner_id=world.user.id, name=f"round {number}")
        session.add(collection)
    ingest = Ingest(world.sessions, context.storage, world.settings, collection.id)
    for colour in range(2 * WORKERS):
        ingest.add_picture(f"{colour}.png", _picture(30 * colour))
    assert _files(world) == 4 * WORKERS
    with transaction(world.sessions) as session:
        units = [unit.unit_id for unit in submit_index(session, world.user, collection.id, world.settings).units]
    assert len(units) == WORKERS
    barrier = threading.Barrier(WORKERS + 3, timeout=60)

    def work(unit: Any) -> None:
        run_unit(context, unit, lambda context, held: embed_unit(context, held, lambda _: WordsWithBarrier(barrier)))

    def delete() -> None:
        barrier.wait()
        delete_collection(world.sessions, context.storage, collection.id)

    def upload() -> None:
        barrier.wait()
        for colour in range(5):
            ingest.add_picture(f"new {colour}.png", _picture(200 + colour), text="a caption")

    def submit() -> None:
        barrier.wait()
        for _ in range(5):
            run_transaction(
                world.sessions,
                lambda session: submit_search(
                    session, world.user, collection.id, SearchRequest(text="x"), world.settings
                ),
            )

    errors = _at_once([lambda unit=unit: work(unit) for unit in units] + [delete, upload, submit])
    # the next round of a dispatcher: the first one leaves alone what others had locked before the deletion
    remove_deleted(world.sessions, context.storage)
    # the collection was deleted, or nothing in it is indexed yet
    assert [error for error in errors if not isinstance(error, NotFound | Conflict)] == []
    with world.sessions() as session:
        assert session.get(Collection, collection.id) is None
        for table in (Item, Embedding, Job):
            left = sa.select(sa.func.count()).select_from(table).filter_by(collection_id=collection.id)
            assert session.scalar(left) == 0
        assert session.scalar(sa.select(sa.func.count()).where(Unit.id.in_(units))) == 0
    assert _files(world) == 0


def _files(world) -> int:
    return sum(path.is_file() for path in (world.settings.home / "media").rglob("*"))


def _at_once(actions: Sequence[Callable[[], object]]) -> list[Exception]:
    """Run each action in a thread and return the errors."""
    errors: list[Exception] = []

    def run(action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(action,), daemon=True) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    return errors


def _deleted(world) -> None:
    run_transaction(world.sessions, lambda session: records.delete_collection(session, world.collection_id))


def _units(world, context: WorkerContext, count: int) -> list[UUID]:
    world.add_texts(*[f"text {n}" for n in range(2 * count)])
    with transaction(world.sessions) as session:
        return [unit.unit_id for unit in submit_index(session, world.user, world.collection_id, context.settings).units]


def test_a_worker_that_holds_a_unit_of_a_deleted_collection_ends_quietly(context: WorkerContext, world) -> None:
    def work(context: WorkerContext, held: LeasedUnit) -> list[Notification]:
        _deleted(world)
        held.lease._renew()
        with pytest.raises(StaleClaim):
            held.lease.check()
        with context.sessions() as session:
            session.get_one(Job, held.claim.job_id)
        return []

    first, second = _units(world, context, 2)
    with structlog.testing.capture_logs() as lines:
        assert run_unit(context, first, work)
        assert not run_unit(context, second, work), "nobody can claim another one"
    found = [(line["event"], line["log_level"]) for line in lines]
    assert found == [("unit.started", "info"), ("unit.stale", "warning")]
    assert "No row was found" in lines[-1]["reason"]


class Counting(SilentNotifier):
    """A notifier whose queues are empty."""

    def depth(self, _queue: str) -> int:
        return 0


def test_a_dispatcher_and_the_figures_of_queues_know_no_unit_of_a_deleted_collection(
    context: WorkerContext, world
) -> None:
    claimed, _, dead = _units(world, context, 3)
    world.must_claim(claimed)
    with transaction(world.sessions) as session:
        ago = sa.func.now() - sa.text("interval '1 hour'")
        session.execute(sa.update(Unit).values(announced_at=ago, lease_until=ago, run_after=ago))
        session.execute(sa.update(Unit).where(Unit.id == dead).values(state="dead", error="e", finished_at=ago))

    def counted() -> tuple[int, int, int, int]:
        with world.sessions() as session:
            queues = depths(session, routing_of(context.settings))
            units = session.scalar(sa.select(sa.func.count()).where(Unit.state == "dead")) or 0
            problems = len(stuck.find(session, context.settings))
        return sum(q.waiting for q in queues), sum(q.at_work for q in queues), units, problems

    assert counted()[:3] == (1, 1, 1)
    assert counted()[3] > 0
    _deleted(world)
    assert counted() == (0, 0, 0, 0)
    dispatcher = Dispatcher(world.sessions, Counting(), context.settings)
    assert dispatcher.round() == 0
    assert dispatcher.rescue() == 0
    assert violations(world.sessions, context.storage, quiet=True) == []
