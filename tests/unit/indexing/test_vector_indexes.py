"""A job that leaves many vectors without an index builds it, once, whatever happens to its worker."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from uuid import UUID

import pytest
import sqlalchemy as sa
from tests.unit.stand_ins import FakeEmbedder, index, run

from retllm.db.enums import AttemptOutcome, JobState, UnitState
from retllm.db.jobs import Attempt, Job, Unit
from retllm.db.session import transaction
from retllm.db.tables import Collection, Embedding, Item
from retllm.db.vectors import INDEX_PREFIX, VectorIndex, index_name
from retllm.history import control, index_builds
from retllm.history.job_etag import EtagValues, job_etag
from retllm.history.job_views import job_view
from retllm.indexing import vector_indexes
from retllm.indexing.submit import submit_index
from retllm.indexing.worker import embed_unit
from retllm.queue.worker import Finisher, WorkerContext, current_claims, run_unit

LIMIT = 8


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_indexes, "EXACT_LIMIT", LIMIT)
    monkeypatch.setattr(vector_indexes, "_LOOK_SECONDS", 0.01)


def on_server(world) -> dict[str, bool]:
    """The vector indexes that the server has, and whether each is valid."""
    query = sa.text(
        "SELECT relname, indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
        "WHERE indrelid = 'embeddings'::regclass AND starts_with(relname, :prefix)"
    )
    with world.sessions() as session:
        return dict(session.execute(query, {"prefix": INDEX_PREFIX}).all())


def listed(world) -> list[VectorIndex]:
    with world.sessions() as session:
        return list(session.scalars(sa.select(VectorIndex)))


def texts(world, count: int, word: str = "word") -> list[UUID]:
    return world.add_texts(*(f"{word} {n}" for n in range(count)))


def build_units(world, job_id: UUID) -> list[Unit]:
    return [unit for unit in world.units(job_id) if "index" in unit.payload]


def test_a_small_collection_gets_no_index(context: WorkerContext, world) -> None:
    texts(world, LIMIT)
    job_id = index(context, world)
    assert build_units(world, job_id) == []
    assert on_server(world) == {}


def test_the_job_that_takes_a_collection_over_the_limit_builds_its_index(context: WorkerContext, world) -> None:
    keys = texts(world, LIMIT + 1)
    job_id = index(context, world)
    (unit,) = build_units(world, job_id)
    assert world.job(job_id).state is JobState.SUCCEEDED
    (built,) = listed(world)
    assert (built.id, built.collection_id, built.through) == (unit.id, world.collection_id, max(keys))
    assert built.counts == {"text": LIMIT + 1}
    assert on_server(world) == {index_name(unit.id): True}
    # what comes later is searched without the index, until it is much
    texts(world, LIMIT, "later")
    assert build_units(world, index(context, world)) == []
    texts(world, 1, "last")
    (second,) = build_units(world, index(context, world))
    assert [one.id for one in listed(world)] == [second.id]
    assert on_server(world) == {index_name(second.id): True}, "the earlier one is dropped"


def test_an_index_that_another_job_has_built_meanwhile_is_not_built_again(context: WorkerContext, world) -> None:
    texts(world, LIMIT + 1)
    with transaction(world.sessions) as session:
        jobs = [
            submit_index(session, world.user, world.collection_id, world.settings, idempotency_key=str(n)).job.id
            for n in range(2)
        ]
    embed_all(context, world, *jobs)
    (first,), (second,) = (build_units(world, job_id) for job_id in jobs)
    for job_id in jobs:
        run(context, world, job_id)
        assert world.job(job_id).state is JobState.SUCCEEDED
    assert on_server(world) == {index_name(first.id): True}
    assert first.id != second.id


def test_an_index_whose_vectors_are_mostly_made_anew_is_dropped_first_and_built_again(
    context: WorkerContext, world
) -> None:
    keys = texts(world, LIMIT + 4)
    index(context, world)
    (before,) = listed(world)
    for changed, given_up in ((LIMIT, False), (LIMIT + 1, True)):
        with transaction(world.sessions) as session:
            some = keys[:changed]
            session.execute(sa.update(Item).where(Item.id.in_(some)).values(version=Item.version + 1))
        texts(world, 1, f"new {changed}")
        job_id = index(context, world)
        assert world.job(job_id).state is JobState.SUCCEEDED
        kinds = [{"drop", "index"} & unit.payload.keys() for unit in world.units(job_id)]
        assert (kinds[0], kinds[-1]) == (({"drop"}, {"index"}) if given_up else (set(), set()))
        (now,) = listed(world)
        assert (now.id != before.id) == given_up
        assert on_server(world) == {index_name(now.id): True}


def embed_all(context: WorkerContext, world, *jobs: UUID) -> None:
    """Do the units of items, and leave those that build an index."""
    for job_id in jobs:
        while ready := [u for u in world.units(job_id) if u.state is UnitState.READY and "index" not in u.payload]:
            for unit in ready:
                assert run_unit(context, unit.id, lambda context, held: embed_unit(context, held, embedders))


def embedders(_: str) -> FakeEmbedder:
    return FakeEmbedder()


def prepared(context: WorkerContext, world) -> tuple[UUID, Unit]:
    """A job whose one open unit builds an index."""
    texts(world, LIMIT + 1)
    with transaction(world.sessions) as session:
        job_id = submit_index(session, world.user, world.collection_id, world.settings).job.id
    embed_all(context, world, job_id)
    (unit,) = build_units(world, job_id)
    assert unit.state is UnitState.READY
    return job_id, unit


def test_what_a_killed_worker_left_is_dropped_and_built_again(context: WorkerContext, world) -> None:
    job_id, unit = prepared(context, world)
    leave_invalid(world, index_name(unit.id))
    run(context, world, job_id)
    assert world.job(job_id).state is JobState.SUCCEEDED
    assert on_server(world) == {index_name(unit.id): True}


_BUILD = """
import sys
from uuid import UUID
from retllm.db.session import make_sessions
from retllm.indexing import vector_indexes
vector_indexes._CHECK_MS = 50
vector_indexes.build_now(make_sessions(sys.argv[1]), UUID(sys.argv[2]), UUID(sys.argv[3]))
"""


def test_the_server_stops_when_the_worker_is_killed_and_then_it_can_be_built_again(
    context: WorkerContext, world
) -> None:
    job_id, unit = prepared(context, world)
    address, model = world.settings.database_url, unit.payload["index"]
    with a_transaction_to_wait_for(world):
        argv = [sys.executable, "-c", _BUILD, address, model, str(world.collection_id)]
        worker = subprocess.Popen(argv)
        while on_server(world) == {}:
            assert worker.poll() is None
        worker.kill()
        worker.wait()
        # the other transaction is open: a server that builds for nobody would wait for it, with the lock
        free = False
        while not free:
            with vector_indexes._alone(world.sessions) as connection:
                free = connection is not None
    run(context, world, job_id)
    assert world.job(job_id).state is JobState.SUCCEEDED
    assert on_server(world) == {index_name(unit.id): True}


def leave_invalid(world, name: str) -> None:
    with transaction(world.sessions) as session:
        session.execute(sa.text(f"CREATE INDEX {name} ON embeddings (created_at)"))
        session.execute(
            sa.text("UPDATE pg_index SET indisvalid = false WHERE indexrelid = CAST(:name AS regclass)"), {"name": name}
        )
    assert on_server(world) == {name: False}


def test_while_another_index_is_built_the_unit_waits_without_counting_an_attempt(context: WorkerContext, world) -> None:
    _, unit = prepared(context, world)
    with vector_indexes._alone(world.sessions) as held:
        assert held is not None
        assert run_unit(context, unit.id, lambda context, held: embed_unit(context, held, embedders))
        assert vector_indexes.drop_unused(world.sessions) == 0
    with world.sessions() as session:
        again = session.get_one(Unit, unit.id)
        outcomes = session.scalars(sa.select(Attempt.outcome).where(Attempt.unit_id == unit.id)).all()
    assert (again.state, again.attempt, outcomes) == (UnitState.READY, 0, [AttemptOutcome.RETURNED])
    assert on_server(world) == {}


def test_the_lock_is_free_as_soon_as_its_holder_is_done(world) -> None:
    for _ in range(20):
        with vector_indexes._alone(world.sessions) as connection:
            assert connection is not None


def test_a_worker_that_stands_still_keeps_no_other_index_from_being_built(
    context: WorkerContext, world, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, unit = prepared(context, world)
    count = vector_indexes._counts

    def stand_still(connection: sa.Connection, index: VectorIndex) -> dict[str, int]:
        # the last step before the index is put into use
        counts = count(connection, index)
        assert connection.scalar(sa.text("SHOW idle_session_timeout")) == "1min"
        connection.execute(sa.text("SET idle_session_timeout = 50"))
        free = False
        while not free:
            # as the next attempt, or the dispatcher
            with vector_indexes._alone(world.sessions) as connection:
                free = connection is not None
        vector_indexes.drop_unused(world.sessions)
        return counts

    with monkeypatch.context() as patch:
        patch.setattr(vector_indexes, "_counts", stand_still)
        assert run_unit(context, unit.id, lambda context, held: embed_unit(context, held, embedders))
    assert (listed(world), on_server(world)) == ([], {}), "an index that others may have dropped is not put into use"
    run(context, world, job_id)
    assert world.job(job_id).state is JobState.SUCCEEDED
    assert on_server(world) == {index_name(unit.id): True}


@contextmanager
def a_transaction_to_wait_for(world) -> Iterator[None]:
    """A transaction that wrote vectors and is open: building an index waits until it ends."""
    with world.sessions() as session:
        session.execute(sa.update(Embedding).values(image_weight=0.5))
        yield
        session.rollback()


def test_a_job_that_is_cancelled_stops_building_long_before_its_lease_is_renewed_and_leaves_no_index(
    context: WorkerContext, world
) -> None:
    job_id, unit = prepared(context, world)

    def builds() -> bool:
        query = "SELECT true FROM pg_stat_activity WHERE state = 'active' AND starts_with(query, 'CREATE INDEX')"
        with world.sessions() as session:
            return bool(session.scalar(sa.text(f"{query} AND datname = current_database()")))

    def await_build(goes_on: bool, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while builds() is not goes_on:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    do = partial(embed_unit, embedders=embedders)
    with a_transaction_to_wait_for(world):
        thread = threading.Thread(target=run_unit, args=(context, unit.id, do))
        thread.start()
        await_build(goes_on=True, seconds=60)
        with transaction(world.sessions) as session:
            control.cancel_job(session, world.user, job_id)
        await_build(goes_on=False, seconds=context.settings.lease_seconds / 10)
    thread.join(60)
    assert world.job(job_id).state is JobState.CANCELLED
    assert [one.error for one in world.units(job_id) if one.id == unit.id] == [None]
    assert (listed(world), on_server(world)) == ([], {})


@pytest.mark.parametrize(("size", "expected"), [(0, "64MB"), (1 << 30, "1536MB"), (1 << 50, "2GB")])
def test_a_build_takes_the_memory_that_it_needs_if_the_server_lets_it(world, size: int, expected: str) -> None:
    with vector_indexes._alone(world.sessions) as connection:
        assert connection is not None
        connection.execute(sa.text("SET maintenance_work_mem = '2GB'"))
        vector_indexes._limit_memory(connection, size)
        assert connection.scalar(sa.text("SHOW maintenance_work_mem")) == expected
    with vector_indexes._alone(world.sessions) as connection:
        assert connection is not None
        connection.execute(sa.text("SET maintenance_work_mem = '1MB'"))
        vector_indexes._limit_memory(connection, size)
        assert connection.scalar(sa.text("SHOW maintenance_work_mem")) == "1MB"


def test_the_worker_goes_on_while_an_index_is_built_and_the_job_tells_its_progress(
    context: WorkerContext, world, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, unit = prepared(context, world)
    texts(world, 1, "more")
    with transaction(world.sessions) as session:
        job = submit_index(session, world.user, world.collection_id, world.settings, idempotency_key="more")
    finisher = Finisher()

    def do(context: WorkerContext, held):
        return embed_unit(context, held, embedders)

    with a_transaction_to_wait_for(world):
        assert run_unit(context, unit.id, do, finisher)
        (other,) = world.units(job.job.id)
        assert run_unit(context, other.id, do, finisher)
        finisher.wait()
        assert world.units(job.job.id)[0].state is UnitState.DONE
        assert [claim.unit_id for claim in current_claims()] == [unit.id], "the server waits for the transaction"
        progress = build_of(world, job_id)
        while progress is None:
            progress = build_of(world, job_id)
        assert progress == 0.0
        before = etag_of(world, job_id)
        monkeypatch.setattr(index_builds, "build_progress", lambda _, keys: dict.fromkeys(keys, 0.25))
        assert etag_of(world, job_id) != before, "pages that are open follow the build"
        monkeypatch.undo()
        assert build_of(world, job.job.id) is None
    finisher.wait_aside()
    assert build_of(world, job_id) is None
    assert on_server(world) == {index_name(unit.id): True}


def etag_of(world, job_id: UUID) -> EtagValues:
    with transaction(world.sessions) as session:
        return job_etag(session, world.user, job_id)


def build_of(world, job_id: UUID) -> float | None:
    with world.sessions() as session:
        return job_view(session, session.get_one(Job, job_id)).index_build


def test_indexes_that_nothing_uses_are_dropped(context: WorkerContext, world) -> None:
    texts(world, LIMIT + 1)
    index(context, world)
    (built,) = listed(world)
    old = f"{INDEX_PREFIX}{built.model_id.hex}"
    with transaction(world.sessions) as session:
        # as earlier releases made it, for all collections
        session.execute(sa.text(f"CREATE INDEX {old} ON embeddings (created_at)"))
    assert vector_indexes.drop_unused(world.sessions) == 1
    assert on_server(world) == {index_name(built.id): True}
    with transaction(world.sessions) as session:
        some = sa.select(Item.id).order_by(Item.id).limit(LIMIT // 2 + 2)
        session.execute(sa.delete(Embedding).where(Embedding.item_id.in_(some)))
    assert vector_indexes.drop_unused(world.sessions) == 1, "the collection has become small"
    assert (listed(world), on_server(world)) == ([], {})


def test_the_index_of_a_deleted_collection_is_dropped(context: WorkerContext, world) -> None:
    texts(world, LIMIT + 1)
    index(context, world)
    with transaction(world.sessions) as session:
        session.execute(sa.delete(Collection).where(Collection.id == world.collection_id))
    assert vector_indexes.drop_unused(world.sessions) == 1
    assert on_server(world) == {}
