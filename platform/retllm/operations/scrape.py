"""The metrics page for Prometheus: the current state of the database and the totals of all processes.

It describes the whole installation, so every web process gives the same answer. Every query uses an index and counts up
to ``queues.MAX_COUNTED``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

import sqlalchemy as sa
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from sqlalchemy.orm import Session

from retllm.db.enums import Stage, UnitState
from retllm.db.jobs import Unit
from retllm.db.operations import Worker
from retllm.db.session import Sessions, snapshot
from retllm.metrics import REGISTRY
from retllm.operations import queues, totals
from retllm.operations.queues import MAX_COUNTED, Queue
from retllm.operations.workers import MAX_SHOWN, is_alive
from retllm.queue.routing import Routing, stage_of

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
# a slower scrape fails; the next one comes soon
_TIMEOUT_MS = 5_000

Hints = Callable[[], Mapping[str, int] | None]
"""Returns the number of hints in Redis by queue; None if Redis is unreachable."""


def page(sessions: Sessions, routing: Routing, hints: Hints = lambda: None) -> bytes:
    """Return the answer to one scrape.

    Raises:
        sqlalchemy.exc.OperationalError: the database is unreachable or too slow.
    """
    hint_counts = hints()
    with snapshot(sessions) as session:
        session.execute(sa.text(f"SET LOCAL statement_timeout = {_TIMEOUT_MS}"))
        families = [
            *_of_queues(session, routing, hint_counts),
            *_of_units(session),
            _of_workers(session, routing),
            *_of_usage(session),
            *_of_totals(session),
        ]
    registry = CollectorRegistry()
    registry.register(_Fixed(families))
    return generate_latest(registry)


class _Fixed(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _gauge(name: str, meaning: str, labels: Iterable[str], values: Mapping[tuple[str, ...], float]) -> Metric:
    family = GaugeMetricFamily(name, meaning, labels=list(labels))
    for of, value in values.items():
        family.add_metric(list(of), value)
    return family


def _of_queues(session: Session, routing: Routing, hints: Mapping[str, int] | None) -> list[Metric]:
    every = queues.depths(session, routing)
    now = session.scalar(sa.select(sa.func.now())) or datetime.now(UTC)

    def each(value: Callable[[Queue], float]) -> dict[tuple[str, ...], float]:
        return {(queue.name,): value(queue) for queue in every}

    found = [
        _gauge(
            "retllm_queue_depth",
            f"Units that may be claimed now, at most {MAX_COUNTED}.",
            ["queue"],
            each(lambda queue: queue.waiting),
        ),
        _gauge(
            "retllm_queue_oldest_seconds",
            "Seconds since the longest waiting unit became claimable; 0 if none waits.",
            ["queue"],
            each(lambda queue: max(0.0, (now - queue.oldest).total_seconds()) if queue.oldest else 0.0),
        ),
        _gauge(
            "retllm_queue_paused",
            "1 while the queue is paused.",
            ["queue"],
            each(lambda queue: float(queue.pause is not None)),
        ),
        _gauge(
            "retllm_queue_later",
            f"Units that wait for their next attempt or for a server, at most {MAX_COUNTED}.",
            ["queue"],
            each(lambda queue: queue.later),
        ),
        _gauge(
            "retllm_queue_server_away",
            "1 while units wait for the server of the queue's scorer.",
            ["queue"],
            each(lambda queue: float(queue.awaited is not None)),
        ),
    ]
    if hints is not None:
        of: dict[tuple[str, ...], float] = {(queue,): count for queue, count in hints.items()}
        found.append(_gauge("retllm_queue_hints", "Hints in Redis; absent while Redis is unreachable.", ["queue"], of))
    return [*found, _open_units(every)]


def _open_units(every: list[Queue]) -> Metric:
    values: Counter[tuple[str, ...]] = Counter()
    for queue in every:
        stage = stage_of(queue.name)
        values[stage, UnitState.READY] += queue.waiting + queue.later
        values[stage, UnitState.LEASED] += queue.at_work
    return _gauge(
        "retllm_open_units",
        f"Units by stage and state: ready (of a queue at most {MAX_COUNTED} claimable now and as many later), leased.",
        ["stage", "state"],
        values,
    )


def _of_units(session: Session) -> list[Metric]:
    bounded = sa.select(Unit.stage).where(Unit.state == UnitState.DEAD).limit(MAX_COUNTED).subquery()
    counted = sa.select(bounded.c.stage, sa.func.count().label("units")).group_by(bounded.c.stage)
    dead = {row.stage: row.units for row in session.execute(counted)}
    meaning = f"Dead units, at most {MAX_COUNTED} in all."
    return [_gauge("retllm_dead_units", meaning, ["stage"], {(stage,): dead.get(stage, 0) for stage in Stage})]


def _of_workers(session: Session, routing: Routing) -> Metric:
    served = sa.select(sa.func.unnest(Worker.queues).label("queue")).where(is_alive()).subquery()
    counted = sa.select(served.c.queue, sa.func.count().label("workers")).group_by(served.c.queue)
    alive = {row.queue: row.workers for row in session.execute(counted)}
    meaning = "Live worker processes that serve the queue."
    values: dict[tuple[str, ...], float] = {(queue,): alive.get(queue, 0) for queue in routing.queues}
    return _gauge("retllm_workers_alive", meaning, ["queue"], values)


_USAGE = {
    "resident_bytes": "Memory of the worker process.",
    "load": "Processes of the worker's host that ran or waited to run, on average over the last minute.",
    "gpu_used_bytes": "Memory of the worker's GPU that is used, by whatever process.",
    "gpu_total_bytes": "Memory of the worker's GPU.",
    "gpu_utilization": "Share of the time in which the worker's GPU computed, 0 to 1.",
}


def _of_usage(session: Session) -> list[Metric]:
    """Return what live workers use; a value that a worker does not know is absent."""
    query = sa.select(Worker.name, Worker.usage).where(is_alive(), Worker.usage.is_not(None)).order_by(Worker.name)
    rows = session.execute(query.limit(MAX_SHOWN)).all()
    return [
        _gauge(
            f"retllm_worker_{name}",
            meaning,
            ["worker"],
            {(row.name,): float(row.usage[name]) for row in rows if row.usage.get(name) is not None},
        )
        for name, meaning in _USAGE.items()
    ]


def _of_totals(session: Session) -> Iterable[Metric]:
    """Yield the metrics of this process with the totals of all processes as values."""
    known = totals.read(session)
    for family in REGISTRY.collect():
        of_all = Metric(family.name, family.documentation, family.type)
        of_all.samples = [
            Sample(sample.name, sample.labels, known.get(totals.key_of(sample.name, sample.labels), 0.0))
            for sample in family.samples
            if not sample.name.endswith("_created")
        ]
        yield of_all
