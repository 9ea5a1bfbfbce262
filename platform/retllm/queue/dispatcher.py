"""The dispatcher: notifies workers of unclaimed units and takes back units with expired leases (design: jobs).

Any number of dispatchers may run: each takes its rows with SKIP LOCKED, and every step may safely be repeated.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Protocol
from uuid import UUID

import redis
import sqlalchemy as sa
import structlog
from sqlalchemy.orm import Session

from retllm.db.enums import AttemptOutcome, Stage, UnitState
from retllm.db.jobs import Job, Unit
from retllm.db.session import Sessions, run_transaction, transaction, was_locked
from retllm.metrics import LEASES_LOST, PASSED_OVER
from retllm.queue import attempts, lifecycle, pauses, ready
from retllm.queue.claim import retry_or_fail
from retllm.queue.notifications import Notifier
from retllm.queue.routing import Notification, routing_of
from retllm.settings import Settings

log = structlog.get_logger(__name__)

_BATCH = 100
# a unit or job that raised an error is skipped for this time, so that it does not block the others
_DEFER_SECONDS = 30.0
# and one whose job another transaction has locked for longer than it takes to write a result, maybe that of a process
# that hangs; units of other jobs must not wait for that
_PATIENCE = "SET LOCAL lock_timeout = '250ms'"
_LOCKED_SECONDS = 1.0
# these end the round; any other error concerns one row only
_DATABASE_ERRORS = (sa.exc.OperationalError, sa.exc.InterfaceError)


class MaintenanceTask(Protocol):
    """Periodic work that a dispatcher does between its rounds."""

    @property
    def seconds(self) -> float:
        """The interval between two runs."""

    def run(self) -> object:
        """Run once."""


class Dispatcher:
    """A loop over ``rescue``, ``sweep_cancelled``, maintenance and ``notify_ready``."""

    def __init__(
        self, sessions: Sessions, notifier: Notifier, settings: Settings, maintenance: Sequence[MaintenanceTask] = ()
    ) -> None:
        self._sessions = sessions
        self._notifier = notifier
        self._settings = settings
        self._routing = routing_of(settings)
        self._stop = threading.Event()
        self._maintenance = [(task, time.monotonic()) for task in maintenance]
        self._deferred: dict[UUID, float] = {}

    def stop(self) -> None:
        """End the loop after the current round."""
        self._stop.set()

    def run(self) -> None:
        """Loop until stopped; if a server is unreachable, log it and try again in the next round."""
        log.info("dispatcher.started")
        while not self._stop.is_set():
            try:
                self.round()
            except (sa.exc.DBAPIError, redis.RedisError) as error:
                log.warning("dispatcher.round_failed", reason=str(error).strip().splitlines()[0])
            self._stop.wait(self._settings.dispatch_seconds)
        for task, _ in self._maintenance:
            self._maintain(task)
        log.info("dispatcher.stopped")

    def round(self) -> int:
        """Do one round; return the number of hints sent."""
        self.rescue()
        self.sweep_cancelled()
        self._maintain_due()
        with transaction(self._sessions) as session:
            paused = pauses.paused(session)
        return sum(self.notify_ready(queue) for queue in self._routing.queues if queue not in paused)

    def rescue(self) -> int:
        """Take back units with expired leases, whose worker died or lost the database; return their number."""
        with transaction(self._sessions) as session:
            deferred = self._deferred_keys()
            expired = sa.select(Unit.id, Unit.job_id).where(
                *_expired(), Unit.id.not_in(deferred), Unit.job_id.not_in(deferred)
            )
            found = session.execute(expired.order_by(Unit.lease_until).limit(_BATCH)).all()
        return self._each(found, self._rescue_one)

    def _deferred_keys(self) -> list[UUID]:
        now = time.monotonic()
        self._deferred = {key: until for key, until in self._deferred.items() if until > now}
        return list(self._deferred)

    def _each(self, found: Iterable[tuple[UUID, UUID]], action: Callable[[UUID], None]) -> int:
        """Apply ``action`` to each key, which is that of the job beside it or of a unit of this.

        A key that raises is deferred and does not stop the others, and so is a job that is locked.
        """
        done = 0
        for key, job_id in found:
            if job_id in self._deferred:
                continue
            try:
                action(key)
            except _DATABASE_ERRORS as error:
                if not was_locked(error):
                    raise
                self._deferred[job_id] = time.monotonic() + _LOCKED_SECONDS
            except Exception:
                log.exception("dispatcher.passed_over", action=action.__name__.lstrip("_"), key=str(key))
                PASSED_OVER.inc()
                self._deferred[key] = time.monotonic() + _DEFER_SECONDS
            else:
                done += 1
        return done

    def _rescue_one(self, unit_id: UUID) -> None:
        stage = run_transaction(self._sessions, lambda session: self._take_back(session, unit_id))
        if stage is not None:
            LEASES_LOST.labels(stage).inc()

    def _take_back(self, session: Session, unit_id: UUID) -> Stage | None:
        """Retry or end the unit if its lease has expired, and return its stage; else return None."""
        session.execute(sa.text(_PATIENCE))
        job_id = session.scalar(sa.select(Unit.job_id).where(Unit.id == unit_id))
        job = lifecycle.lock_job(session, job_id) if job_id is not None else None
        unit = session.scalar(sa.select(Unit).where(Unit.id == unit_id, *_expired()).with_for_update(skip_locked=True))
        if job is None or unit is None:
            return None
        error = f"The worker {unit.worker} was lost in attempt {unit.attempt}: its lease ran out."
        log.warning("unit.rescued", unit_id=str(unit_id), job_id=str(job_id), attempt=unit.attempt)
        attempts.end(session, unit.token, AttemptOutcome.LOST, error=error)
        retry_or_fail(session, job, unit, error, self._settings)
        lifecycle.close_if_cancelled(session, job)
        return unit.stage

    def sweep_cancelled(self) -> None:
        """End cancelled jobs of which no worker holds a unit."""
        with transaction(self._sessions) as session:
            cancelled = sa.select(Job.id, Job.id).where(
                Job.cancel_requested, Job.finished_at.is_(None), Job.id.not_in(self._deferred_keys())
            )
            found = session.execute(cancelled.limit(_BATCH)).all()
        self._each(found, self._sweep_one)

    def _sweep_one(self, job_id: UUID) -> None:
        def close(session: Session) -> None:
            session.execute(sa.text(_PATIENCE))
            job = lifecycle.lock_job(session, job_id)
            if job is not None:
                lifecycle.close_if_cancelled(session, job)

        run_transaction(self._sessions, close)

    def _maintain_due(self) -> None:
        now = time.monotonic()
        for index, (task, due) in enumerate(self._maintenance):
            if now >= due:
                self._maintenance[index] = (task, now + task.seconds)
                self._maintain(task)

    def _maintain(self, task: MaintenanceTask) -> None:
        """Run the task and log a failure: maintenance must not stop the dispatcher."""
        try:
            task.run()
        except Exception as error:
            log.warning("dispatcher.upkeep_failed", task=type(task).__name__, reason=str(error).strip())

    def notify_ready(self, queue: str) -> int:
        """Notify workers of ready units of ``queue``, as many as it has room for; return the number of hints."""
        room = self._settings.queue_depth - self._notifier.depth(queue)
        if room <= 0:
            return 0
        return self._notifier.notify(self._take_ready(queue, room))

    def _take_ready(self, queue: str, room: int) -> list[Notification]:
        stale = sa.func.now() - timedelta(seconds=self._settings.republish_seconds)
        due = sa.or_(Unit.announced_at.is_(None), Unit.announced_at < stale)
        with transaction(self._sessions) as session:
            return ready.take_ready(session, self._routing, queue, room, due)


def _expired() -> tuple[sa.ColumnElement[bool], ...]:
    return Unit.state == UnitState.LEASED, Unit.lease_until <= sa.func.clock_timestamp()
