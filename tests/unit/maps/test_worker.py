"""A job makes the map of a collection, whatever happens to its worker, and replaces the earlier one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import sqlalchemy as sa
from tests.factories import make_collection, make_embedding, make_model, store
from tests.unit.job_world import World
from tests.unit.stand_ins import SilentNotifier

from retllm.db.enums import ItemState, JobState, UnitState
from retllm.db.jobs import Unit
from retllm.db.maps import MapPoint, MapResult
from retllm.db.session import transaction
from retllm.db.tables import Collection, Item, new_id
from retllm.errors import Conflict, StackError
from retllm.history import control
from retllm.maps import process, views
from retllm.maps import worker as making
from retllm.maps.replacing import Placed, replace_map
from retllm.maps.submit import submit_map
from retllm.media import records, trash
from retllm.media.ingest import delete_item
from retllm.media.transfers import Transfer
from retllm.media_units import media_unit
from retllm.queue.audit import violations
from retllm.queue.dispatcher import Dispatcher
from retllm.queue.worker import WorkerContext, run_unit
from retllm.settings import public_name

TEXTS = [f"text {number}" for number in range(30)]


def embed(world: World, ids: list[UUID], *, revision: str = "1") -> None:
    """Store vectors of the embedder of the settings, in as many directions as there are items."""
    with transaction(world.sessions) as session:
        name = public_name(world.settings.embedder_name)
        model = session.scalar(sa.select(making.EmbeddingModel).filter_by(name=name, revision=revision))
        if model is None:
            model = make_model(name, revision=revision)
            store(session, model)
        items = [session.get_one(Item, key) for key in ids]
        store(session, *(make_embedding(item, model.id, (np.cos(n), np.sin(n))) for n, item in enumerate(items)))


@pytest.fixture
def indexed(world: World) -> list[UUID]:
    """Thirty indexed texts."""
    ids = world.add_texts(*TEXTS)
    embed(world, ids)
    return ids


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lay out on a line, in the order of the file, without a process."""

    def laid_out(path: Path, dimension: int, check: Callable[[], None]) -> Any:
        check()
        number = path.stat().st_size // 4 // dimension
        return np.stack([np.arange(number), np.zeros(number)], axis=1).astype(np.float32)

    monkeypatch.setattr(process, "laid_out", laid_out)


def submit(world: World) -> UUID:
    with transaction(world.sessions) as session:
        return submit_map(session, world.user, world.collection_id, world.settings).job.id


def do(context: WorkerContext, world: World, job_id: UUID) -> None:
    (unit,) = (unit for unit in world.units(job_id) if unit.state is UnitState.READY)
    assert run_unit(context, unit.id, media_unit)


def make(context: WorkerContext, world: World) -> UUID:
    job_id = submit(world)
    do(context, world, job_id)
    return job_id


def points(world: World) -> dict[UUID, MapPoint]:
    with world.sessions() as session:
        own = MapPoint.collection_id == world.collection_id
        return {point.item_id: point for point in session.scalars(sa.select(MapPoint).where(own))}


def state(world: World) -> views.State:
    with world.sessions() as session:
        collection = session.get_one(Collection, world.collection_id)
        return views.state_of(session, collection, world.settings)


def test_every_indexed_item_gets_a_place_and_a_rank_in_random_order(
    context: WorkerContext, world: World, indexed: list[UUID]
) -> None:
    world.add_texts("not indexed")
    job_id = make(context, world)
    assert world.job(job_id).state is JobState.SUCCEEDED
    found = points(world)
    assert found.keys() == set(indexed)
    assert sorted(point.rank for point in found.values()) == list(range(30))
    assert [found[key].rank for key in indexed] != list(range(30))
    assert all(0 <= point.x <= 100 and 0 <= point.y <= 100 for point in found.values())
    assert len({(point.x, point.y) for point in found.values()}) > 20
    now = state(world)
    assert now.result is not None
    assert now.job is not None
    assert (now.result.job_id, now.result.items, now.job.id, now.out_of_date) == (job_id, 30, job_id, False)
    assert [str(one) for one in violations(world.sessions, context.storage, quiet=True)] == []


def test_items_that_are_indexed_later_make_it_out_of_date(
    context: WorkerContext, world: World, indexed: list[UUID], quick: None
) -> None:
    make(context, world)
    (late,) = world.add_texts("late")
    assert not state(world).out_of_date, "it has no vector"
    embed(world, [late])
    assert state(world).out_of_date
    make(context, world)
    assert not state(world).out_of_date
    assert late in points(world)


def test_that_others_were_deleted_does_not_hide_that_one_came(
    context: WorkerContext, world: World, indexed: list[UUID], quick: None
) -> None:
    make(context, world)
    for key in indexed[:3]:
        with transaction(world.sessions) as session:
            delete_item(session, context.storage, session.get_one(Item, key))
    assert not state(world).out_of_date
    embed(world, world.add_texts("late"))
    assert state(world).out_of_date


def test_another_version_of_the_embedder_makes_it_out_of_date(
    context: WorkerContext, world: World, indexed: list[UUID], quick: None
) -> None:
    make(context, world)
    embed(world, indexed, revision="2")
    assert state(world).out_of_date


def test_deleted_and_moved_items_leave_the_map_and_trashed_ones_come_back(
    context: WorkerContext, world: World, indexed: list[UUID], quick: None
) -> None:
    make(context, world)
    with transaction(world.sessions) as session:
        delete_item(session, context.storage, session.get_one(Item, indexed[0]))
    with transaction(world.sessions) as session:
        target = make_collection(world.user.id, "other")
        store(session, target)
    transfer = Transfer(context.storage, target.id, moves=True)
    transfer.prepare(world.sessions, [indexed[1]])
    with transaction(world.sessions) as session:
        transfer.write(session, [indexed[1]])
    transfer.finish()
    assert points(world).keys() == set(indexed[2:])
    with transaction(world.sessions) as session:
        trash.trash_items(session, records.lock_items(session, [indexed[2]]), days=30, by=world.user.id)
    with world.sessions() as session:
        assert session.get_one(Item, indexed[2]).state is ItemState.TRASHED
    assert indexed[2] in points(world), "it is restored with its place"
    with transaction(world.sessions) as session:
        trash.remove_items(session, [indexed[2]])
    assert points(world).keys() == set(indexed[3:])


def test_what_is_deleted_while_the_map_is_made_is_not_on_it(
    context: WorkerContext, world: World, indexed: list[UUID], quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*arguments: Any) -> None:
        with transaction(world.sessions) as session:
            delete_item(session, context.storage, session.get_one(Item, indexed[0]))
        replace_map(*arguments)

    monkeypatch.setattr(making, "replace_map", late)
    make(context, world)
    assert points(world).keys() == set(indexed[1:])


def test_the_map_of_an_earlier_job_that_ends_later_changes_nothing(
    context: WorkerContext, world: World, indexed: list[UUID], quick: None
) -> None:
    first = submit(world)
    with transaction(world.sessions) as session:
        control.cancel_job(session, world.user, first)
    second = make(context, world)
    before = points(world)
    keys = np.frombuffer(indexed[0].bytes, dtype=np.uint8).reshape(1, 16)
    placed = Placed(new_id(), indexed[0], keys, np.zeros((1, 2), dtype=np.float32))
    with transaction(world.sessions) as session:
        replace_map(session, world.job(first), placed)
    assert points(world).keys() == before.keys()
    with world.sessions() as session:
        assert session.get_one(MapResult, world.collection_id).job_id == second


def test_a_worker_that_is_killed_loses_nothing(
    context: WorkerContext, world: World, indexed: list[UUID], quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit(world)
    (unit,) = world.units(job_id)

    class Killed(BaseException):
        pass

    def die(*_: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(making, "complete", die)
        with pytest.raises(Killed):
            run_unit(context, unit.id, media_unit)
    assert points(world) == {}
    with transaction(world.sessions) as session:
        # as a dispatcher finds it when the lease has run out
        session.execute(sa.update(Unit).where(Unit.id == unit.id).values(lease_until=sa.func.now()))
    assert Dispatcher(world.sessions, SilentNotifier(), world.settings).rescue() == 1
    do(context, world, job_id)
    assert points(world).keys() == set(indexed)


def test_without_umap_the_job_fails_with_what_to_install_and_can_be_retried(
    context: WorkerContext, world: World, indexed: list[UUID], quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit(world)
    with monkeypatch.context() as patch:
        patch.setattr(process, "find_spec", lambda name: None)
        do(context, world, job_id)
    job = world.job(job_id)
    assert job.state is JobState.FAILED
    assert "pip install 'retllm-platform[map]'" in str(job.error)
    with transaction(world.sessions) as session:
        control.retry_job(session, world.user, job_id)
    do(context, world, job_id)
    assert world.job(job_id).state is JobState.SUCCEEDED


def test_a_layout_that_fails_leaves_the_earlier_map(
    context: WorkerContext, world: World, indexed: list[UUID], quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(context, world)

    def fail(*_: Any) -> Any:
        raise StackError("The process that lays out vectors failed (-9): ")

    monkeypatch.setattr(process, "laid_out", fail)
    job_id = make(context, world)
    assert world.job(job_id).state is JobState.FAILED
    assert points(world).keys() == set(indexed)


def test_there_is_one_such_job_at_a_time_and_none_without_vectors(
    context: WorkerContext, world: World, quick: None
) -> None:
    ids = world.add_texts("one", "two")
    with pytest.raises(Conflict, match="No item of the collection is indexed"):
        submit(world)
    embed(world, ids)
    submit(world)
    with pytest.raises(Conflict, match="being made already"):
        submit(world)
