"""Worker processes: each one updates its row by heartbeats, which stop when it is killed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

import sqlalchemy as sa
import structlog
from sqlalchemy.dialects.postgresql import aggregate_order_by, insert
from sqlalchemy.orm import Session

from retllm.db.enums import Stage, UnitState
from retllm.db.jobs import Job, Unit
from retllm.db.operations import Worker
from retllm.db.session import Sessions, transaction
from retllm.identity.access import visible_jobs
from retllm.identity.actor import Actor
from retllm.operations.totals import Totals
from retllm.operations.usage import Usage

log = structlog.get_logger(__name__)

BEAT_SECONDS = 10.0
ALIVE_SECONDS = 30
KEPT = timedelta(days=1)
"""A worker is shown for this time after its last heartbeat."""
MAX_SHOWN = 200

_STOP_SECONDS = 6.0


class WorkerStatus(StrEnum):
    """The state of a worker."""

    ALIVE = "alive"  # sent a heartbeat within ALIVE_SECONDS
    SILENT = "silent"  # did not, and did not report a stop: killed, hung, or cut off from the database
    STOPPED = "stopped"  # reported its stop


@dataclass(frozen=True)
class WorkerReport:
    """The contents of a heartbeat. An entry of ``models`` has ``name``, ``revision``, ``loaded`` and ``error``."""

    name: str
    queues: Sequence[str]
    device: str
    release: str
    models: Sequence[dict[str, Any]] = ()
    usage: Usage | None = None


@dataclass(frozen=True)
class WorkerView:
    """A worker and the ``units`` that it holds."""

    name: str
    queues: list[str]
    device: str
    release: str
    models: list[dict[str, Any]]
    usage: Usage | None
    started_at: datetime
    seen_at: datetime
    stopped_at: datetime | None
    state: WorkerStatus
    units: list[HeldUnit] = field(default_factory=list)


@dataclass(frozen=True)
class HeldUnit:
    """A unit that a worker holds; ``job_id`` is None if the viewer may not see the job."""

    job_id: UUID | None
    stage: Stage
    started_at: datetime | None


def record(session: Session, report: WorkerReport) -> None:
    """Store a heartbeat."""
    row = {
        "name": report.name,
        "queues": list(report.queues),
        "device": report.device,
        "release": report.release,
        "models": list(report.models),
        "usage": report.usage.as_json() if report.usage else None,
    }
    statement = insert(Worker).values(row)
    updated = {column: statement.excluded[column] for column in row if column != "name"}
    now = sa.func.clock_timestamp()
    session.execute(
        statement.on_conflict_do_update(
            index_elements=[Worker.name], set_={**updated, "seen_at": now, "stopped_at": None}
        )
    )


def leave(session: Session, name: str) -> None:
    """Record that a worker stopped."""
    session.execute(sa.update(Worker).where(Worker.name == name).values(stopped_at=sa.func.clock_timestamp()))


def prune(session: Session) -> int:
    """Delete workers that are gone for longer than ``KEPT``; return their number."""
    deleted = sa.delete(Worker).where(Worker.seen_at < sa.func.now() - KEPT).returning(Worker.name)
    return len(session.scalars(deleted).all())


def is_alive() -> sa.ColumnElement[bool]:
    """Return the condition for live workers."""
    oldest = sa.func.clock_timestamp() - timedelta(seconds=ALIVE_SECONDS)
    return sa.and_(Worker.stopped_at.is_(None), Worker.seen_at > oldest)


def every(session: Session, actor: Actor | None = None) -> list[WorkerView]:
    """Return the workers of the last day: live ones by name, then the others, latest first.

    Without ``actor``, all jobs are visible.
    """
    alive = is_alive()
    rows = session.execute(
        sa.select(Worker, alive).order_by(alive.desc(), Worker.seen_at.desc(), Worker.name).limit(MAX_SHOWN)
    ).all()
    held: dict[str, list[HeldUnit]] = {}
    seen = visible_jobs(actor) if actor else sa.true()
    job_id = sa.case((seen, Unit.job_id)).label("job_id")
    at_work = sa.select(Unit.worker, job_id, Unit.stage, Unit.started_at).join(Job, Job.id == Unit.job_id)
    at_work = at_work.where(Unit.state == UnitState.LEASED)
    for row in session.execute(at_work):
        held.setdefault(str(row.worker), []).append(HeldUnit(row.job_id, row.stage, row.started_at))
    # live workers by name, so that their rows do not move while people watch the page
    views = [_view(worker, live, held.get(worker.name, [])) for worker, live in rows]
    living = sorted((view for view in views if view.state is WorkerStatus.ALIVE), key=lambda view: view.name)
    return living + [view for view in views if view.state is not WorkerStatus.ALIVE]


def _view(worker: Worker, alive: bool, held: list[HeldUnit]) -> WorkerView:
    state = WorkerStatus.STOPPED if worker.stopped_at else WorkerStatus.ALIVE if alive else WorkerStatus.SILENT
    return WorkerView(
        name=worker.name,
        queues=worker.queues,
        device=worker.device,
        release=worker.release,
        models=worker.models,
        usage=Usage.from_json(worker.usage),
        started_at=worker.started_at,
        seen_at=worker.seen_at,
        stopped_at=worker.stopped_at,
        state=state,
        units=held,
    )


def usage_stamp(session: Session) -> str | None:
    """Return a value that changes with the usage of a live worker."""
    usage = sa.func.concat(Worker.name, Worker.usage)
    query = sa.select(sa.func.md5(sa.func.string_agg(usage, aggregate_order_by(sa.literal(","), Worker.name))))
    return session.scalar(query.where(is_alive()))


def serving(workers: Iterable[WorkerView]) -> dict[str, str | None]:
    """Return the queues that live workers serve, with why none of them can do a unit now: its models are not there."""
    found: dict[str, str | None] = {}
    for worker in workers:
        if worker.state is WorkerStatus.ALIVE:
            errors = [model["error"] for model in worker.models]
            error = errors[0] if errors and all(errors) else None
            found |= {queue: error and found.get(queue, error) for queue in worker.queues}
    return found


def unserved(session: Session, queues: Sequence[str]) -> list[str]:
    """Return the queues that no live worker serves."""
    living = sa.select(sa.func.unnest(Worker.queues)).where(is_alive())
    served = set(session.scalars(living))
    return [queue for queue in queues if queue not in served]


class Heartbeat:
    """Sends heartbeats and metric totals from a thread, so that a worker looks alive during a long unit.

    If the database is unreachable it only logs that; the next heartbeat tries again.
    """

    def __init__(self, sessions: Sessions, report: Callable[[], WorkerReport], *, every: float = BEAT_SECONDS) -> None:
        self._sessions = sessions
        self._report = report
        self._every = every
        self._totals = Totals(sessions)
        self._name = ""
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Start; the first heartbeat is immediate."""
        self._thread.start()

    def soon(self) -> None:
        """Send the next heartbeat at once, since there is something new to report; does not wait for it."""
        self._wake.set()

    def stop(self) -> None:
        """Record that the worker stops, and end the thread; wait a few seconds at most.

        Several threads may call this; each waits for the record.
        """
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        self._try(self._beat)
        while True:
            self._wake.wait(self._every)
            self._wake.clear()
            if self._stopping:
                break
            self._try(self._beat)
            self._totals.flush()
        self._try(self._leave)
        self._totals.flush()

    def _beat(self, session: Session) -> None:
        report = self._report()
        self._name = report.name
        record(session, report)

    def _leave(self, session: Session) -> None:
        leave(session, self._name)

    def _try(self, action: Callable[[Session], None]) -> None:
        try:
            with transaction(self._sessions) as session:
                action(session)
        except Exception as error:  # noqa: BLE001, RUF100 - heartbeats must not disturb the worker
            log.warning("heartbeat.failed", reason=str(error).strip().splitlines()[0] if str(error) else repr(error))
