"""Counts of all processes together, in the database: each process adds what it counted since it last did.

So one scrape of any web process tells of every worker on every machine, a total never falls when a worker ends, and a
worker needs no port and no files for it. What a killed process counted since its last beat is lost.
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
"""The name of a sample, and its labels as JSON in one order."""


def key_of(name: str, labels: Mapping[str, str]) -> Key:
    """The key of a sample."""
    return name, json.dumps(dict(labels), sort_keys=True)


class Totals:
    """Adds what one process counts to the totals; belongs to one thread."""

    def __init__(self, sessions: Sessions, registry: CollectorRegistry = REGISTRY) -> None:
        self._sessions = sessions
        self._registry = registry
        self._told: dict[Key, float] = {}

    def tell(self) -> None:
        """Add what was counted since the last time. A database that is away is logged; the next time adds it all."""
        counted = self._counted()
        added = {key: value - self._told.get(key, 0.0) for key, value in sorted(counted.items())}
        rows = [{"name": name, "labels": labels, "value": more} for (name, labels), more in added.items() if more]
        if not rows:
            return
        try:
            with transaction(self._sessions) as session:
                _add(session, rows)
        except Exception as error:  # noqa: BLE001, RUF100 - nothing of this may end or disturb the work
            log.warning("totals.not_told", reason=str(error).strip().partition("\n")[0] or repr(error))
        else:
            self._told = counted

    def _counted(self) -> dict[Key, float]:
        return {
            key_of(sample.name, sample.labels): sample.value
            for family in self._registry.collect()
            for sample in family.samples
            # when a series began in this process says nothing of the totals
            if not sample.name.endswith("_created")
        }


def _add(session: Session, rows: list[dict[str, object]]) -> None:
    # always in the same order of keys, so that processes that add at once only wait for each other
    statement = insert(MetricTotal).values(rows)
    more = MetricTotal.value + statement.excluded.value
    session.execute(statement.on_conflict_do_update(index_elements=["name", "labels"], set_={"value": more}))


def read(session: Session) -> dict[Key, float]:
    """Every total."""
    rows = session.execute(sa.select(MetricTotal.name, MetricTotal.labels, MetricTotal.value))
    return {(row.name, row.labels): row.value for row in rows}
