"""Metric totals of all processes, in the database: each process regularly adds its new counts.

So one scrape of any web process covers every worker on every machine, no total decreases when a worker ends, and
workers need neither port nor files for metrics. Counts of a killed process since its last heartbeat are lost.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import sqlalchemy as sa
import structlog
from prometheus_client import CollectorRegistry
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from retllm.db.operations import MetricTotal
from retllm.db.session import Sessions, transaction
from retllm.metrics import REGISTRY

log = structlog.get_logger(__name__)

Key = tuple[str, str]
"""The name of a sample, and its labels as JSON with sorted keys."""


def key_of(name: str, labels: Mapping[str, str]) -> Key:
    """Return the key of a sample."""
    return name, json.dumps(dict(labels), sort_keys=True)


class Totals:
    """Adds the counts of one process to the totals; use it from one thread only."""

    def __init__(self, sessions: Sessions, registry: CollectorRegistry = REGISTRY) -> None:
        self._sessions = sessions
        self._registry = registry
        self._flushed: dict[Key, float] = {}

    def flush(self) -> None:
        """Add the counts since the last flush. If the database is unreachable, log it; the next flush adds them."""
        counted = self._counted()
        added = {key: value - self._flushed.get(key, 0.0) for key, value in sorted(counted.items())}
        rows = [{"name": name, "labels": labels, "value": more} for (name, labels), more in added.items() if more]
        if not rows:
            return
        try:
            with transaction(self._sessions) as session:
                _add(session, rows)
        except Exception as error:  # noqa: BLE001, RUF100 - metrics must not disturb the work
            log.warning("totals.not_told", reason=str(error).strip().partition("\n")[0] or repr(error))
        else:
            self._flushed = counted

    def _counted(self) -> dict[Key, float]:
        return {
            key_of(sample.name, sample.labels): sample.value
            for family in self._registry.collect()
            for sample in family.samples
            # the start time of a series in this process is meaningless for the totals
            if not sample.name.endswith("_created")
        }


def _add(session: Session, rows: list[dict[str, object]]) -> None:
    # rows are sorted by key, so that concurrent processes do not deadlock
    statement = insert(MetricTotal).values(rows)
    more = MetricTotal.value + statement.excluded.value
    session.execute(statement.on_conflict_do_update(index_elements=["name", "labels"], set_={"value": more}))


def read(session: Session) -> dict[Key, float]:
    """Return all totals."""
    rows = session.execute(sa.select(MetricTotal.name, MetricTotal.labels, MetricTotal.value))
    return {(row.name, row.labels): row.value for row in rows}
