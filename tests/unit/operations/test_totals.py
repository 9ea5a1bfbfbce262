"""The counts of all processes are added up in the database without disturbing the work."""

from __future__ import annotations

import json
import threading

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, Counter, Histogram
from tests.unit.operations.test_queues import Recorder

from retllm.db.operations import MetricTotal
from retllm.db.session import transaction
from retllm.metrics import BATCH, LEASES_LOST
from retllm.operations import totals
from retllm.operations.maintenance import maintenance_tasks
from retllm.operations.totals import Totals, key_of
from retllm.operations.workers import Heartbeat, WorkerReport
from retllm.queue.dispatcher import Dispatcher


class Process:
    """Simulates a process with its own counts."""

    def __init__(self, sessions) -> None:
        registry = CollectorRegistry()
        self.eggs = Counter("eggs", "Eggs.", ["colour"], registry=registry)
        self.weights = Histogram("weights", "Weights.", buckets=(1, 10), registry=registry)
        self.totals = Totals(sessions, registry)


def _read(world) -> dict[totals.Key, float]:
    with transaction(world.sessions) as session:
        return totals.read(session)


def test_totals_sum_the_counts_of_all_processes(world) -> None:
    one, other = Process(world.sessions), Process(world.sessions)
    one.eggs.labels("white").inc(2)
    one.weights.observe(5)
    other.eggs.labels("white").inc()
    other.eggs.labels("brown").inc(4)
    for process in (one, other, one):
        process.totals.flush()
    other.eggs.labels("brown").inc()
    other.totals.flush()
    third = Process(world.sessions)
    third.weights.observe(0.5)
    third.totals.flush()
    assert _read(world) == {
        key_of("eggs_total", {"colour": "white"}): 3,
        key_of("eggs_total", {"colour": "brown"}): 5,
        key_of("weights_bucket", {"le": "1.0"}): 1,
        key_of("weights_bucket", {"le": "10.0"}): 2,
        key_of("weights_bucket", {"le": "+Inf"}): 2,
        key_of("weights_count", {}): 2,
        key_of("weights_sum", {}): 5.5,
    }


def test_a_process_without_new_counts_writes_nothing(world) -> None:
    process = Process(world.sessions)
    process.eggs.labels("white").inc()
    process.totals.flush()
    written: list[str] = []
    sa.event.listen(world.sessions.kw["bind"], "before_cursor_execute", lambda *args: written.append(args[2]))
    process.totals.flush()
    assert written == []


def test_counts_that_could_not_be_stored_are_stored_later_exactly_once(world) -> None:
    process = Process(world.sessions)
    process.eggs.labels("white").inc()

    def rename(to: str, was: str) -> None:
        world.in_transaction(lambda session: session.execute(sa.text(f"ALTER TABLE {was} RENAME TO {to}")))

    rename("away", "metric_totals")
    process.totals.flush()
    process.eggs.labels("white").inc()
    rename("metric_totals", "away")
    process.totals.flush()
    process.totals.flush()
    assert _read(world) == {key_of("eggs_total", {"colour": "white"}): 2}


def test_processes_that_flush_at_the_same_time_lose_no_counts(world) -> None:
    def work() -> None:
        process = Process(world.sessions)
        for number in range(20):
            # the processes use the labels in different orders
            process.eggs.labels(("white", "brown")[(number + threading.get_ident()) % 2]).inc()
            process.weights.observe(number)
            process.totals.flush()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = _read(world)
    assert sum(value for (name, _), value in found.items() if name == "eggs_total") == 80
    assert found[key_of("weights_count", {})] == 80


def test_labels_are_stored_in_a_fixed_order() -> None:
    assert key_of("a", {"x": "1", "b": "2"}) == key_of("a", {"b": "2", "x": "1"})
    assert json.loads(key_of("a", {"x": '"'})[1]) == {"x": '"'}
    assert {column.name for column in MetricTotal.__table__.primary_key} == {"name", "labels"}


def test_a_worker_stores_its_counts_when_it_stops(world) -> None:
    heart = Heartbeat(world.sessions, lambda: WorkerReport("host:1", ["score"], "cpu", "0.1.0"), every=600)
    BATCH.labels("scorer").observe(3)
    heart.start()
    heart.stop()
    assert _read(world)[key_of("retllm_batch_size_count", {"model": "scorer"})] >= 1


def test_a_dispatcher_stores_its_counts_when_it_stops(world) -> None:
    dispatcher = Dispatcher(
        world.sessions, Recorder(), world.settings, maintenance_tasks(world.sessions, Recorder(), world.settings)
    )
    LEASES_LOST.labels("fine").inc()
    dispatcher.stop()
    dispatcher.run()
    assert _read(world)[key_of("retllm_leases_lost_total", {"stage": "fine"})] >= 1
