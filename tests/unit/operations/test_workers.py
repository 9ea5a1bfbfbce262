"""Live workers are shown, killed ones become silent, and an unreachable database does not stop a worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import sqlalchemy as sa
from tests.unit.operations.test_queues import Recorder

from retllm.db.operations import Worker
from retllm.db.session import make_sessions, transaction
from retllm.indexing.submit import submit_index
from retllm.operations import workers
from retllm.operations.maintenance import maintenance_tasks
from retllm.operations.workers import Heartbeat, WorkerReport, WorkerStatus, WorkerView
from retllm.queue.dispatcher import Dispatcher


def _report(name: str = "host:1", **models: bool) -> WorkerReport:
    rows = [{"name": model, "revision": None, "loaded": loaded, "error": None} for model, loaded in models.items()]
    return WorkerReport(name, ["query", "embed"], "cpu", "0.1.0", rows)


def _every(world) -> dict[str, WorkerView]:
    with transaction(world.sessions) as session:
        return {one.name: one for one in workers.every(session)}


def _age(world, name: str, seconds: int) -> None:
    with transaction(world.sessions) as session:
        ago = sa.func.now() - sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds)
        session.execute(sa.update(Worker).where(Worker.name == name).values(seen_at=ago))


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "the condition did not become true in time"
        time.sleep(0.02)


def test_the_reports_of_a_worker_decide_whether_it_is_alive_silent_or_stopped(world) -> None:
    for name in ("host:1", "host:2", "host:3"):
        world.in_transaction(lambda session, name=name: workers.record(session, _report(name)))
    _age(world, "host:2", workers.ALIVE_SECONDS + 1)
    world.in_transaction(lambda session: workers.leave(session, "host:3"))
    assert {name: one.state for name, one in _every(world).items()} == {
        "host:1": WorkerStatus.ALIVE,
        "host:2": WorkerStatus.SILENT,
        "host:3": WorkerStatus.STOPPED,
    }
    world.in_transaction(lambda session: workers.record(session, _report("host:3")))
    assert _every(world)["host:3"].state is WorkerStatus.ALIVE, "a worker that reports again is alive again"


def test_a_new_report_replaces_the_previous_one(world) -> None:
    world.in_transaction(lambda session: workers.record(session, _report(clip=False)))
    begun = _every(world)["host:1"].started_at
    world.in_transaction(lambda session: workers.record(session, _report(clip=True)))
    (one,) = _every(world).values()
    assert one.models == [{"name": "clip", "revision": None, "loaded": True, "error": None}]
    assert (one.queues, one.device, one.release, one.started_at) == (["query", "embed"], "cpu", "0.1.0", begun)
    assert one.seen_at > begun


def test_a_worker_is_shown_with_the_units_that_it_holds(world) -> None:
    world.add_texts("a", "b")
    with transaction(world.sessions) as session:
        job_id = submit_index(session, world.user, world.collection_id, world.settings).job.id
    world.in_transaction(lambda session: workers.record(session, _report()))
    assert _every(world)["host:1"].units == []
    world.must_claim(world.units(job_id)[0].id, "host:1")
    assert [one.job_id for one in _every(world)["host:1"].units] == [job_id]


def test_queues_without_a_live_worker_are_listed(world) -> None:
    def unserved() -> object:
        return world.in_transaction(lambda session: workers.unserved(session, ["query", "embed", "score"]))

    assert unserved() == ["query", "embed", "score"]
    world.in_transaction(lambda session: workers.record(session, _report()))
    assert unserved() == ["score"]
    _age(world, "host:1", workers.ALIVE_SECONDS + 1)
    assert unserved() == ["query", "embed", "score"]


def test_the_dispatcher_deletes_workers_that_were_silent_for_a_day(world) -> None:
    for name, seconds in (("host:1", 3600 * 25), ("host:2", 3600 * 23)):
        world.in_transaction(lambda session, name=name: workers.record(session, _report(name)))
        _age(world, name, seconds)
    Dispatcher(
        world.sessions, Recorder(), world.settings, maintenance_tasks(world.sessions, Recorder(), world.settings)
    ).round()
    assert list(_every(world)) == ["host:2"]


def test_a_heartbeat_sends_reports_until_it_is_stopped_and_then_reports_the_stop(world) -> None:
    loaded = threading.Event()
    beat = Heartbeat(world.sessions, lambda: _report(clip=loaded.is_set()), every=0.02)
    beat.start()
    _until(lambda: bool(_every(world)))
    loaded.set()
    _until(lambda: _every(world)["host:1"].models[0]["loaded"] is True)
    beat.stop()
    assert _every(world)["host:1"].state is WorkerStatus.STOPPED


def test_a_heartbeat_comes_at_once_if_there_is_something_to_report(world) -> None:
    loaded = threading.Event()
    beat = Heartbeat(world.sessions, lambda: _report(clip=loaded.is_set()), every=3600)
    beat.start()
    _until(lambda: bool(_every(world)))
    loaded.set()
    beat.soon()
    _until(lambda: _every(world)["host:1"].models[0]["loaded"] is True)
    beat.stop()
    assert _every(world)["host:1"].state is WorkerStatus.STOPPED


def test_a_heartbeat_survives_failed_reports_and_an_unreachable_database(world) -> None:
    calls: list[int] = []

    def report() -> WorkerReport:
        calls.append(1)
        if len(calls) < 3:
            raise RuntimeError("the model is being swapped")
        return _report()

    beat = Heartbeat(world.sessions, report, every=0.02)
    beat.start()
    _until(lambda: bool(_every(world)))
    beat.stop()
    away = make_sessions("postgresql://nobody@127.0.0.1:1/none")
    lost = Heartbeat(away, _report, every=0.02)
    lost.start()
    begun = time.monotonic()
    lost.stop()
    assert time.monotonic() - begun < 60
