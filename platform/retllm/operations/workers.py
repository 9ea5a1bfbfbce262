"""Worker processes as they tell of themselves: each writes its row now and then, and a killed one falls silent."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

import sqlalchemy as sa
import structlog
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from retllm.db.enums import Stage, UnitState
from retllm.db.operations import Worker
from retllm.db.session import Sessions, transaction
from retllm.db.tables import Job, Unit
from retllm.identity.access import within_visible
from retllm.identity.actor import Actor
from retllm.operations.totals import Totals

log = structlog.get_logger(__name__)

BEAT_SECONDS = 10.0
ALIVE_SECONDS = 30
KEPT = timedelta(days=1)
"""For so long a worker that is gone is still shown."""
MAX_SHOWN = 200

_LEAVE_SECONDS = 3.0


class WorkerStatus(StrEnum):
    """What is known of a worker."""

    ALIVE = "alive"  # told of itself within ALIVE_SECONDS
    SILENT = "silent"  # did not, and did not say that it stops: killed, hung, or cut off from the database
    STOPPED = "stopped"  # ended in order


@dataclass(frozen=True)
class WorkerReport:
    """What a worker tells: ``models`` has for each its name, revision, whether it is loaded, and else the error."""

    name: str
    queues: Sequence[str]
    device: str
    release: str
    models: Sequence[dict[str, Any]] = ()


@dataclass(frozen=True)
class WorkerView:
    """A worker and what it does: ``units`` it holds now, as job, stage and since when."""

    name: str
    queues: list[str]
    device: str
    release: str
    models: list[dict[str, Any]]
    started_at: datetime
    seen_at: datetime
    stopped_at: datetime | None
    standing: WorkerStatus
    units: list[HeldUnit] = field(default_factory=list)


@dataclass(frozen=True)
class HeldUnit:
    """A unit that a worker holds; ``job_id`` is None where whoever looks may not see the job."""

    job_id: UUID | None
    stage: Stage
    started_at: datetime | None


def record(session: Session, report: WorkerReport) -> None:
    """Write what a worker tells of itself; it is alive from now on."""
    row = {
        "name": report.name,
        "queues": list(report.queues),
        "device": report.device,
        "release": report.release,
        "models": list(report.models),
    }
    statement = insert(Worker).values(row)
    told = {column: statement.excluded[column] for column in row if column != "name"}
    now = sa.func.clock_timestamp()
    session.execute(
        statement.on_conflict_do_update(index_elements=[Worker.name], set_={**told, "seen_at": now, "stopped_at": None})
    )


def leave(session: Session, name: str) -> None:
    """Say that a worker ended in order."""
    session.execute(sa.update(Worker).where(Worker.name == name).values(stopped_at=sa.func.clock_timestamp()))


def prune(session: Session) -> int:
    """Forget workers that are gone for long; returns how many."""
    gone = sa.delete(Worker).where(Worker.seen_at < sa.func.now() - KEPT).returning(Worker.name)
    return len(session.scalars(gone).all())


def is_alive() -> sa.ColumnElement[bool]:
    """True for a worker that told of itself lately and did not say that it ends."""
    age = sa.func.clock_timestamp() - timedelta(seconds=ALIVE_SECONDS)
    return sa.and_(Worker.stopped_at.is_(None), Worker.seen_at > age)


def every(session: Session, actor: Actor | None = None) -> list[WorkerView]:
    """The workers of the last day, those that live first, then the latest seen.

    Without ``actor`` as whoever runs the installation sees them.
    """
    alive = is_alive()
    rows = session.execute(
        sa.select(Worker, alive).order_by(alive.desc(), Worker.seen_at.desc(), Worker.name).limit(MAX_SHOWN)
    ).all()
    held: dict[str, list[HeldUnit]] = {}
    seen = within_visible(actor, Job.collection_id) if actor else sa.true()
    job_id = sa.case((seen, Unit.job_id)).label("job_id")
    at_work = sa.select(Unit.worker, job_id, Unit.stage, Unit.started_at).join(Job, Job.id == Unit.job_id)
    at_work = at_work.where(Unit.state == UnitState.LEASED)
    for row in session.execute(at_work):
        held.setdefault(str(row.worker), []).append(HeldUnit(row.job_id, row.stage, row.started_at))
    # by name among the living, so that their rows stay where they are while they are watched
    views = [_view(worker, lives, held.get(worker.name, [])) for worker, lives in rows]
    living = sorted((one for one in views if one.standing is WorkerStatus.ALIVE), key=lambda one: one.name)
    return living + [one for one in views if one.standing is not WorkerStatus.ALIVE]


def _view(worker: Worker, lives: bool, held: list[HeldUnit]) -> WorkerView:
    standing = WorkerStatus.STOPPED if worker.stopped_at else WorkerStatus.ALIVE if lives else WorkerStatus.SILENT
    return WorkerView(
        name=worker.name,
        queues=worker.queues,
        device=worker.device,
        release=worker.release,
        models=worker.models,
        started_at=worker.started_at,
        seen_at=worker.seen_at,
        stopped_at=worker.stopped_at,
        standing=standing,
        units=held,
    )


def unserved(session: Session, queues: Sequence[str]) -> list[str]:
    """Those of the queues that no living worker serves."""
    living = sa.select(sa.func.unnest(Worker.queues)).where(is_alive())
    served = set(session.scalars(living))
    return [queue for queue in queues if queue not in served]


class Heartbeat:
    """Tells of a worker, and what it counted, from a thread of its own: a long unit must not make it look dead.

    A database that is away is logged and no error of the worker; the next beat tries again.
    """

    def __init__(self, sessions: Sessions, report: Callable[[], WorkerReport], *, every: float = BEAT_SECONDS) -> None:
        self._sessions = sessions
        self._report = report
        self._every = every
        self._totals = Totals(sessions)
        self._name = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin; the first beat comes at once."""
        self._thread.start()

    def stop(self) -> None:
        """Say that the worker ends, and end; a database that does not answer keeps nobody waiting for long."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_LEAVE_SECONDS)

    def _run(self) -> None:
        self._try(self._beat)
        while not self._stop.wait(self._every):
            self._try(self._beat)
            self._totals.tell()
        self._try(self._leave)
        self._totals.tell()

    def _beat(self, session: Session) -> None:
        report = self._report()
        self._name = report.name
        record(session, report)

    def _leave(self, session: Session) -> None:
        leave(session, self._name)

    def _try(self, do: Callable[[Session], None]) -> None:
        try:
            with transaction(self._sessions) as session:
                do(session)
        except Exception as error:  # noqa: BLE001, RUF100 - nothing of this may end or disturb the worker
            log.warning("heartbeat.failed", reason=str(error).strip().splitlines()[0] if str(error) else repr(error))
