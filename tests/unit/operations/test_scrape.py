"""The metrics page shows the state of the database and the totals of all processes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families

from retllm import metrics
from retllm.db.enums import JobKind, Stage, UnitState
from retllm.db.jobs import Job, Unit
from retllm.db.session import transaction
from retllm.db.tables import new_id
from retllm.operations import queues, scrape, workers
from retllm.operations.totals import Totals
from retllm.operations.usage import Usage
from retllm.operations.workers import WorkerReport
from retllm.queue.routing import ONE_SCORER, Routing, is_of_scorer


def _samples(world, hints: Any = lambda: None, routing: Routing = ONE_SCORER) -> dict[tuple[str, ...], float]:
    """Samples by name and the values of their labels, sorted by label."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(scrape.page(world.sessions, routing, hints).decode())
        for sample in family.samples
    }


def _units(world, stage: Stage, state: UnitState, count: int, **columns: Any) -> None:
    with transaction(world.sessions) as session:
        job = Job(id=new_id(), kind=JobKind.INDEX, user_id=world.user.id, collection_id=world.collection_id, params={})
        session.add(job)
        session.flush()
        rows = [
            {"id": new_id(), "job_id": job.id, "stage": stage, "seq": seq, "state": state, "payload": {}, **columns}
            for seq in range(count)
        ]
        session.execute(sa.insert(Unit), rows)


def test_the_metrics_have_all_stages() -> None:
    assert list(Stage) == list(metrics.STAGES)


def test_an_idle_installation_reports_zero_for_every_metric(world) -> None:
    samples = _samples(world)
    assert {value for key, value in samples.items() if "total" not in key[0]} == {0}
    expected = {("retllm_queue_depth", queue) for queue in ONE_SCORER.queues}
    expected |= {("retllm_workers_alive", queue) for queue in ONE_SCORER.queues}
    expected |= {("retllm_dead_units", stage) for stage in Stage}
    expected |= {("retllm_fenced_writes_total", stage) for stage in Stage}
    expected |= {("retllm_leases_lost_total", stage) for stage in Stage}
    expected |= {("retllm_attempts_total", stage) for stage in Stage}
    expected |= {("retllm_unit_seconds_count", stage) for stage in Stage}
    expected |= {("retllm_batch_size_count", model) for model in metrics.MODELS}
    assert expected <= set(samples)
    assert not [key for key in samples if key[0] == "retllm_queue_hints"], "Redis was not queried"


def test_the_metrics_have_what_live_workers_use_as_far_as_they_know_it(world) -> None:
    on_gpu = Usage(1_000, 2.5, 16, 20_000, 141_000, 0.75)
    reports = {"gpu:1": on_gpu, "gpu:2": replace(on_gpu, gpu_utilization=None), "cpu:3": Usage(3_000), "old:4": None}
    with transaction(world.sessions) as session:
        for name, usage in reports.items():
            workers.record(session, WorkerReport(name, ["score"], "cuda:0: H200", "0", usage=usage))
        workers.record(session, WorkerReport("gone:5", ["score"], "cuda:0: H200", "0", usage=on_gpu))
        workers.leave(session, "gone:5")
    found = {key: value for key, value in _samples(world).items() if key[0].startswith("retllm_worker_")}
    assert found == {
        **{("retllm_worker_resident_bytes", name): value for name, value in (("gpu:1", 1_000), ("gpu:2", 1_000))},
        ("retllm_worker_resident_bytes", "cpu:3"): 3_000,
        **{("retllm_worker_load", name): 2.5 for name in ("gpu:1", "gpu:2")},
        **{("retllm_worker_gpu_used_bytes", name): 20_000 for name in ("gpu:1", "gpu:2")},
        **{("retllm_worker_gpu_total_bytes", name): 141_000 for name in ("gpu:1", "gpu:2")},
        ("retllm_worker_gpu_utilization", "gpu:1"): 0.75,
    }


def test_the_metrics_match_the_queues_units_and_workers(world) -> None:
    now = datetime.now(UTC)
    _units(world, Stage.FINE, UnitState.READY, 3, run_after=now - timedelta(minutes=5))
    _units(world, Stage.FINE, UnitState.READY, 2, run_after=now + timedelta(minutes=5))
    _units(world, Stage.FINE, UnitState.LEASED, 1, lease_until=now + timedelta(minutes=1))
    _units(world, Stage.EMBED, UnitState.DEAD, 4, finished_at=now)
    _units(world, Stage.EMBED, UnitState.DONE, 5, finished_at=now)
    with transaction(world.sessions) as session:
        queues.pause(session, ONE_SCORER, world.user, "score")
        for name, of in (("a:1", ["score"]), ("a:2", ["query", "embed"]), ("a:3", ["score"]), ("a:4", ["score"])):
            workers.record(session, WorkerReport(name, of, "cpu", "0.1.0"))
        workers.leave(session, "a:4")
    samples = _samples(world, lambda: {"score": 7, "embed": 0, "query": 0})
    assert samples["retllm_queue_depth", "score"] == 3
    assert 300 <= samples["retllm_queue_oldest_seconds", "score"] < 400
    assert (samples["retllm_queue_paused", "score"], samples["retllm_queue_paused", "embed"]) == (1, 0)
    assert (samples["retllm_queue_later", "score"], samples["retllm_queue_later", "embed"]) == (2, 0)
    assert samples["retllm_queue_server_away", "score"] == 0
    assert samples["retllm_queue_hints", "score"] == 7
    assert (samples["retllm_open_units", "fine", "ready"], samples["retllm_open_units", "fine", "leased"]) == (5, 1)
    assert (samples["retllm_dead_units", "embed"], samples["retllm_dead_units", "fine"]) == (4, 0)
    alive = [samples["retllm_workers_alive", queue] for queue in ("query", "embed", "score")]
    assert alive == [1, 1, 2]


def test_the_stored_totals_are_reported_and_not_the_counts_of_this_process(world) -> None:
    before = _samples(world)
    process = Totals(world.sessions)
    metrics.UNIT_SECONDS.labels("fine").observe(2)
    assert _samples(world) == before
    process.flush()
    assert _samples(world)["retllm_unit_seconds_bucket", "3.0", "fine"] >= 1
    assert _samples(world)["retllm_unit_seconds_count", "fine"] >= 1


@pytest.fixture
def crowded(world):
    """A database with too many units for a sequential scan."""
    now = datetime.now(UTC)
    _units(world, Stage.EMBED, UnitState.DONE, 20_000, finished_at=now)
    _units(world, Stage.FINE, UnitState.READY, 50, run_after=now)
    _units(world, Stage.FINE, UnitState.DEAD, 50, finished_at=now)
    world.settle_units()
    return world


@pytest.mark.parametrize("routing", [ONE_SCORER, Routing(("other",))])
def test_a_scrape_does_not_scan_the_whole_table_of_units(crowded, routing: Routing) -> None:
    statements: list[tuple[str, Any]] = []
    engine = crowded.sessions.kw["bind"]

    def record(connection, cursor, statement, parameters, context, many) -> None:
        statements.append((statement, parameters))

    sa.event.listen(engine, "before_cursor_execute", record)
    samples = _samples(crowded, routing=routing)
    sa.event.remove(engine, "before_cursor_execute", record)
    assert (samples["retllm_queue_depth", "score"], samples["retllm_dead_units", "fine"]) == (50, 50)
    over_units = [(statement, given) for statement, given in statements if "FROM units" in statement]
    # one for each queue of a scorer, whose server may be away, and one for the scorers of the first queue
    scorers = sum(map(is_of_scorer, routing.queues))
    assert len(over_units) == 4 + scorers
    assert len(statements) <= 10 + scorers
    with engine.connect() as connection:
        for statement, given in over_units:
            plan = connection.exec_driver_sql(f"EXPLAIN {statement}", given).scalars().all()
            assert not [line for line in plan if "Seq Scan on units" in line], (statement, plan)
