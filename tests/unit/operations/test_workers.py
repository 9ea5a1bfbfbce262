"""Live workers are shown, killed ones become silent, and an unreachable database disturbs no worker."""

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
    told = [{"name": model, "revision": None, "loaded": loaded, "error": None} for model, loaded in models.items()]
    return WorkerReport(name, ["query", "embed"], "cpu", "0.1.0", told)


def _every(world) -> dict[str, WorkerView]:
    with transaction(world.sessions) as session:
        return {one.name: one for one in workers.every(session)}


def _age(world, name: str, seconds: int) -> None:
    with transaction(world.sessions) as session:
        ago = sa.func.now() - sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds)
        session.execute(sa.update(Worker).where(Worker.name == name).values(seen_at=ago))


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "it did not become true"
        time.sleep(0.02)


def test_a_worker_is_alive_while_it_tells_silent_when_it_does_not_and_stopped_when_it_said_so(world) -> None:
    for name in ("host:1", "host:2", "host:3"):
        world.in_transaction(lambda session, name=name: workers.record(session, _report(name)))
    _age(world, "host:2", workers.ALIVE_SECONDS + 1)
    world.in_transaction(lambda session: workers.leave(session, "host:3"))
    assert {name: one.standing for name, one in _every(world).items()} == {
        "host:1": WorkerStatus.ALIVE,
        "host:2": WorkerStatus.SILENT,
        "host:3": WorkerStatus.STOPPED,
    }
    world.in_transaction(lambda session: workers.record(session, _report("host:3")))
    assert _every(world)["host:3"].standing is WorkerStatus.ALIVE, "a name that comes again lives again"


def test_telling_again_replaces_what_was_told(world) -> None:
    world.in_transaction(lambda session: workers.record(session, _report(clip=False)))
    begun = _every(world)["host:1"].started_at
    world.in_transaction(lambda session: workers.record(session, _report(clip=True)))
    (one,) = _every(world).values()
    assert one.models == [{"name": "clip", "revision": None, "loaded": True, "error": None}]
    assert (one.queues, one.device, one.release, one.started_at) == (["query", "embed"], "cpu", "0.1.0", begun)
    assert one.seen_at > begun


def test_a_worker_is_shown_with_what_it_holds(world) -> None:
    world.add_texts("a", "b")
    with transaction(world.sessions) as session:
        job_id = submit_index(session, world.user, world.collection_id, world.settings).job.id
    world.in_transaction(lambda session: workers.record(session, _report()))
    assert _every(world)["host:1"].units == []
    world.must_claim(world.units(job_id)[0].id, "host:1")
    assert [one.job_id for one in _every(world)["host:1"].units] == [job_id]


def test_queues_that_nobody_alive_serves_are_named(world) -> None:
    def unserved() -> object:
        return world.in_transaction(lambda session: workers.unserved(session, ["query", "embed", "score"]))

    assert unserved() == ["query", "embed", "score"]
    world.in_transaction(lambda session: workers.record(session, _report()))
    assert unserved() == ["score"]
    _age(world, "host:1", workers.ALIVE_SECONDS + 1)
    assert unserved() == ["query", "embed", "score"]


def test_the_dispatcher_forgets_workers_that_are_gone_for_a_day(world) -> None:
    for name, seconds in (("host:1", 3600 * 25), ("host:2", 3600 * 23)):
        world.in_transaction(lambda session, name=name: workers.record(session, _report(name)))
        _age(world, name, seconds)
    Dispatcher(world.sessions, Recorder(), world.settings, maintenance_tasks(world.sessions, world.settings)).round()
    assert list(_every(world)) == ["host:2"]


def test_a_heartbeat_beats_until_it_is_stopped_and_says_that_it_stops(world) -> None:
    loaded = threading.Event()
    beat = Heartbeat(world.sessions, lambda: _report(clip=loaded.is_set()), every=0.02)
    beat.start()
    _until(lambda: bool(_every(world)))
    loaded.set()
    _until(lambda: _every(world)["host:1"].models[0]["loaded"] is True)
    beat.stop()
    assert _every(world)["host:1"].standing is WorkerStatus.STOPPED


def test_a_heart_goes_on_when_the_database_comes_back_and_when_a_report_fails(world) -> None:
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
