"""The dispatcher: announces units that wait unclaimed, and rescues those whose worker is gone (design: jobs).

Any number of dispatchers may run; each round takes its rows with SKIP LOCKED, and does nothing that would be wrong
to do twice.
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
from retllm.db.session import Sessions, run_transaction, transaction
from retllm.db.tables import Job, Unit
from retllm.metrics import LEASES_LOST, PASSED_OVER
from retllm.queue import attempts, lifecycle, pauses
from retllm.queue.claim import retry_or_fail
from retllm.queue.notifications import QUEUE_OF, Notification, Notifier
from retllm.settings import Settings

log = structlog.get_logger(__name__)

_RESCUED_AT_ONCE = 100
# seconds for which what could not be dealt with stands back, so that the others have their turn
_STAND_BACK_SECONDS = 30.0
# an error of these is the database's and ends the round; any other is that of the row at hand
_DATABASE_AWAY = (sa.exc.OperationalError, sa.exc.InterfaceError)


class Upkeep(Protocol):
    """Work that a dispatcher does now and then beside its rounds."""

    @property
    def seconds(self) -> float:
        """How long after one time the next is due."""

    def run(self) -> object:
        """Do it once."""


class Dispatcher:
    """One loop over ``rescue`` and ``announce_ready``, until it is told to stop."""

    def __init__(
        self, sessions: Sessions, notifier: Notifier, settings: Settings, upkeep: Sequence[Upkeep] = ()
    ) -> None:
        self._sessions = sessions
        self._notifier = notifier
        self._settings = settings
        self._stop = threading.Event()
        self._upkeep = [(one, time.monotonic()) for one in upkeep]
        self._standing_back: dict[UUID, float] = {}

    def stop(self) -> None:
        """End the loop after the present round."""
        self._stop.set()

    def run(self) -> None:
        """Loop; a server that is away is logged, and the next round tries again."""
        log.info("dispatcher.started")
        while not self._stop.is_set():
            try:
                self.round()
            except (sa.exc.DBAPIError, redis.RedisError) as error:
                log.warning("dispatcher.round_failed", reason=str(error).strip().splitlines()[0])
            self._stop.wait(self._settings.dispatch_seconds)
        for one, _ in self._upkeep:
            self._keep_up(one)
        log.info("dispatcher.stopped")

    def round(self) -> int:
        """One round; returns how many hints were sent."""
        self.rescue()
        self.sweep_cancelled()
        self._keep_up_what_is_due()
        with transaction(self._sessions) as session:
            paused = pauses.paused(session)
        return sum(self.notify_ready(stage) for stage in Stage if QUEUE_OF[stage] not in paused)

    def rescue(self) -> int:
        """Take back the units whose lease has run out: their worker died or lost the database."""
        with transaction(self._sessions) as session:
            expired = sa.select(Unit.id).where(*_expired(), Unit.id.not_in(self._stood_back()))
            found = session.scalars(expired.order_by(Unit.lease_until).limit(_RESCUED_AT_ONCE)).all()
        return self._each(found, self._rescue_one)

    def _stood_back(self) -> list[UUID]:
        now = time.monotonic()
        self._standing_back = {key: until for key, until in self._standing_back.items() if until > now}
        return list(self._standing_back)

    def _each(self, keys: Iterable[UUID], deed: Callable[[UUID], None]) -> int:
        """Do it to each; one that can't be dealt with stands back for a while and stops none of the others."""
        done = 0
        for key in keys:
            try:
                deed(key)
            except _DATABASE_AWAY:
                raise
            except Exception:
                log.exception("dispatcher.passed_over", deed=deed.__name__.lstrip("_"), key=str(key))
                PASSED_OVER.inc()
                self._standing_back[key] = time.monotonic() + _STAND_BACK_SECONDS
            else:
                done += 1
        return done

    def _rescue_one(self, unit_id: UUID) -> None:
        stage = run_transaction(self._sessions, lambda session: self._take_back(session, unit_id))
        if stage is not None:
            LEASES_LOST.labels(stage).inc()

    def _take_back(self, session: Session, unit_id: UUID) -> Stage | None:
        """The stage of a unit whose lease has run out, which has another attempt now or is dead."""
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
        """End cancelled jobs that no worker holds a unit of."""
        with transaction(self._sessions) as session:
            waiting = sa.select(Job.id).where(
                Job.cancel_requested, Job.finished_at.is_(None), Job.id.not_in(self._stood_back())
            )
            found = session.scalars(waiting.limit(_RESCUED_AT_ONCE)).all()
        self._each(found, self._sweep_one)

    def _sweep_one(self, job_id: UUID) -> None:
        def close(session: Session) -> None:
            job = lifecycle.lock_job(session, job_id)
            if job is not None:
                lifecycle.close_if_cancelled(session, job)

        run_transaction(self._sessions, close)

    def _keep_up_what_is_due(self) -> None:
        now = time.monotonic()
        for number, (one, due) in enumerate(self._upkeep):
            if now >= due:
                self._upkeep[number] = (one, now + one.seconds)
                self._keep_up(one)

    def _keep_up(self, one: Upkeep) -> None:
        """Do it; a failure is logged, since units matter more."""
        try:
            one.run()
        except Exception as error:
            log.warning("dispatcher.upkeep_failed", upkeep=type(one).__name__, reason=str(error).strip())

    def notify_ready(self, stage: Stage) -> int:
        """Announce units of ``stage`` that are ready and unclaimed, as many as the queue has room for."""
        room = self._settings.queue_depth - self._notifier.depth(QUEUE_OF[stage])
        if room <= 0:
            return 0
        return self._notifier.notify(self._take_ready(stage, room))

    def _take_ready(self, stage: Stage, room: int) -> list[Notification]:
        stale = sa.func.now() - timedelta(seconds=self._settings.republish_seconds)
        unheard = sa.or_(Unit.announced_at.is_(None), Unit.announced_at < stale)
        with transaction(self._sessions) as session:
            return pauses.take_ready(session, stage, room, unheard)


def _expired() -> tuple[sa.ColumnElement[bool], ...]:
    return Unit.state == UnitState.LEASED, Unit.lease_until <= sa.func.clock_timestamp()
