"""Claims a unit, renews its lease, and ends the attempt: complete, release or fail (design: jobs)."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from uuid import UUID

import sqlalchemy as sa
import structlog
from sqlalchemy.orm import Session

from retllm.db.enums import AttemptOutcome, JobState, Stage, UnitState
from retllm.db.jobs import Job, Unit
from retllm.db.session import Sessions, run_transaction, transaction
from retllm.errors import (
    JobCancelled,
    ModelUnavailable,
    Obsolete,
    RetllmError,
    ServerAway,
    ServerFailed,
    StaleClaim,
)
from retllm.logs import carried
from retllm.metrics import FENCED
from retllm.queue import attempts, lifecycle, patience, pauses
from retllm.queue.routing import Notification, routing_of, served_queue
from retllm.redaction import redact
from retllm.settings import Settings

log = structlog.get_logger(__name__)

# the end of a traceback is kept
_TRACEBACK_CHARS = 20_000
_ERROR_CHARS = 2_000

Write = Callable[[Session, Job], list[Notification]]


@dataclass(frozen=True)
class Claim:
    """A worker's right to do a unit, proved by the token until the lease expires."""

    unit_id: UUID
    job_id: UUID
    user_id: UUID
    stage: Stage
    seq: int
    attempt: int
    token: UUID
    payload: dict[str, Any]
    scorer: str | None = None
    """that of the search, if it is one"""


def after(seconds: float) -> Any:
    """Return the time ``seconds`` from now by the database's clock; leases never depend on a worker's clock."""
    return sa.func.clock_timestamp() + sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds)


def claim_unit(sessions: Sessions, unit_id: UUID, worker: str, settings: Settings) -> Claim | None:
    """Claim the unit if it is ready; return None if it is leased or ended, or its job was cancelled.

    Also returns None while the queue is paused; resuming the queue sends the notifications again. And for a unit of
    another scorer than the worker's: a notification in a wrong queue changes nothing.
    """

    def take(session: Session) -> Claim | None:
        found = session.execute(sa.select(Unit.job_id, Unit.stage, Unit.scorer).where(Unit.id == unit_id)).one_or_none()
        if found is None:
            return None
        queue = routing_of(settings).queue_of(found.stage, found.scorer)
        if queue != served_queue(settings, found.stage) or pauses.is_paused(session, queue):
            return None
        job = lifecycle.lock_job(session, found.job_id)
        if job is None or job.finished_at is not None or lifecycle.close_if_cancelled(session, job):
            return None
        unit = session.scalar(
            sa.select(Unit)
            .where(Unit.id == unit_id, Unit.state == UnitState.READY, Unit.run_after <= sa.func.clock_timestamp())
            .with_for_update(skip_locked=True)
        )
        if unit is None:
            return None
        unit.state = UnitState.LEASED
        unit.attempt += 1
        unit.token = token = attempts.begin(session, unit, worker)
        unit.worker = worker
        unit.lease_until = after(settings.lease_seconds)
        unit.started_at = sa.func.clock_timestamp()
        if job.state is JobState.QUEUED:
            job.state = JobState.RUNNING
            job.started_at = job.started_at or sa.func.clock_timestamp()
        session.flush()
        return Claim(
            unit_id,
            job.id,
            job.user_id,
            unit.stage,
            unit.seq,
            unit.attempt,
            token,
            dict(unit.payload),
            unit.scorer or None,
        )

    return run_transaction(sessions, take)


class Lease:
    """Renews the lease of a claim in a thread while the worker does the unit.

    Call ``check()`` between two batches: it raises if the claim was lost or the job cancelled.
    """

    def __init__(self, sessions: Sessions, claim: Claim, settings: Settings) -> None:
        self._sessions = sessions
        self._claim = claim
        self._seconds = settings.lease_seconds
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._cancelled = threading.Event()
        self._thread = threading.Thread(
            target=carried(self._renew_until_stopped), name=f"lease-{claim.unit_id}", daemon=True
        )

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def check(self) -> None:
        """Raise if the worker must not go on with the unit.

        Raises:
            StaleClaim: the lease expired; another worker may hold the unit.
            JobCancelled: the job was cancelled.
        """
        if self._lost.is_set():
            raise StaleClaim
        if self._cancelled.is_set():
            raise JobCancelled

    def check_now(self) -> None:
        """Do the same, but ask for a cancellation first, which otherwise only the next renewal finds."""
        # without an answer go on, as after a failed renewal
        with suppress(sa.exc.SQLAlchemyError), self._sessions() as session:
            self._look(session)
        self.check()

    def _look(self, session: Session) -> None:
        if session.scalar(sa.select(Job.cancel_requested).where(Job.id == self._claim.job_id)):
            self._cancelled.set()

    def _renew_until_stopped(self) -> None:
        while not self._stop.wait(self._seconds / 3):
            try:
                self._renew()
            except sa.exc.SQLAlchemyError as error:
                # the database is unreachable: go on; the fence decides at the end
                log.warning("lease.renewal_failed", unit_id=str(self._claim.unit_id), reason=str(error))

    def _renew(self) -> None:
        with transaction(self._sessions) as session:
            held = session.scalar(
                sa.update(Unit).where(*_held(self._claim)).values(lease_until=after(self._seconds)).returning(Unit.id)
            )
            self._look(session)
        if held is None:
            self._lost.set()


def _held(claim: Claim) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        Unit.id == claim.unit_id,
        Unit.token == claim.token,
        Unit.state == UnitState.LEASED,
        Unit.lease_until > sa.func.clock_timestamp(),
    )


def _prove(session: Session, claim: Claim) -> tuple[Job, Unit]:
    """Lock collection and job, then check that the claim still holds the unit (the fence).

    Raises:
        StaleClaim: it does not.
    """
    job = lifecycle.lock_job(session, claim.job_id)
    unit = session.scalar(sa.select(Unit).where(*_held(claim)).with_for_update()) if job else None
    if job is None or unit is None:
        FENCED.labels(claim.stage).inc()
        raise StaleClaim
    return job, unit


def complete(sessions: Sessions, claim: Claim, write: Write) -> list[Notification]:
    """Store the unit's results and end it in one transaction; return the units to notify workers of.

    Args:
        write: adds the results to the given session and returns new units; called again, with another session, if
            the transaction is repeated.

    Raises:
        StaleClaim: the worker no longer holds the unit; nothing was written.
    """

    def end(session: Session) -> list[Notification]:
        job, unit = _prove(session, claim)
        unit.token = None
        unit.lease_until = None
        if job.cancel_requested:
            attempts.end(session, claim.token, AttemptOutcome.CANCELLED)
            unit.state = UnitState.CANCELLED
            unit.finished_at = sa.func.clock_timestamp()
            lifecycle.close_if_cancelled(session, job)
            return []
        attempts.end(session, claim.token, AttemptOutcome.COMMITTED)
        opened = write(session, job)
        unit.state = UnitState.DONE
        # the time after the results were written, since a query in `write` would have stored one before
        unit.finished_at = sa.func.clock_timestamp()
        unit.error = None
        unit.traceback = None
        unit.waits_until = None
        return opened + lifecycle.finish_if_complete(session, job)

    return run_transaction(sessions, end)


def release(sessions: Sessions, claim: Claim, seconds: float = 0) -> None:
    """Return an unfinished unit without counting the attempt: the worker stops, or the job was cancelled, or it waits.

    Args:
        seconds: it is not claimed again for so long.
    """

    def give_back(session: Session) -> None:
        job, unit = _prove(session, claim)
        outcome = AttemptOutcome.CANCELLED if job.cancel_requested else AttemptOutcome.RETURNED
        attempts.end(session, claim.token, outcome)
        if seconds:
            unit.run_after = after(seconds)
        _give_back(session, job, unit)

    run_transaction(sessions, give_back)


def wait_for_server(
    sessions: Sessions, claim: Claim, error: ServerAway, settings: Settings
) -> tuple[bool, list[Notification]]:
    """Return a unit that a server is needed for; it is claimed again after a wait, without counting the attempt.

    If its patience is at its end (:mod:`retllm.queue.patience`), it is dead.

    Returns:
        Whether the unit waits, and the units to notify workers of.

    Raises:
        StaleClaim: the worker no longer holds the unit; nothing was written.
    """

    def give_back(session: Session) -> tuple[bool, list[Notification]]:
        job, unit = _prove(session, claim)
        message = describe(error)
        if not job.cancel_requested and patience.is_over(session, unit):
            attempts.end(session, claim.token, AttemptOutcome.FAILED, error=message)
            return False, retry_or_fail(session, job, unit, message, settings, permanent=True, split=False)
        outcome = AttemptOutcome.CANCELLED if job.cancel_requested else AttemptOutcome.RETURNED
        attempts.end(session, claim.token, outcome, error=message)
        unit.error = message
        patience.wait(session, unit, error.seconds, settings)
        _give_back(session, job, unit)
        return True, []

    return run_transaction(sessions, give_back)


def set_back(
    session: Session, job: Job, unit: Unit, claim: Claim, error: Exception, settings: Settings
) -> list[Notification]:
    """Let the unit with what failed in an attempt that is completed go on as one that was attempted itself."""
    message = describe(error)
    unit.attempt = claim.attempt
    if not isinstance(error, ServerAway):
        return retry_or_fail(session, job, unit, message, settings, permanent=_is_permanent(error), split=False)
    unit.attempt -= 1
    unit.error = message
    unit.announced_at = None
    patience.wait(session, unit, error.seconds, settings)
    return []


def _give_back(session: Session, job: Job, unit: Unit) -> None:
    """Make a unit ready again, without counting its attempt."""
    unit.state = UnitState.READY
    unit.attempt -= 1
    unit.token = None
    unit.lease_until = None
    unit.announced_at = None
    session.flush()
    lifecycle.close_if_cancelled(session, job)


def describe(error: BaseException) -> str:
    """Return the error message that the job's page shows."""
    if isinstance(error, RetllmError):
        return _storable(error.message[:_ERROR_CHARS])
    text = str(error).strip().splitlines()
    return _storable(f"{type(error).__name__}: {text[0]}"[:_ERROR_CHARS]) if text else type(error).__name__


def _format_traceback(error: BaseException) -> str:
    """Return the traceback, cut at the beginning to ``_TRACEBACK_CHARS``."""
    whole = _storable("".join(traceback.format_exception(error)))
    if len(whole) <= _TRACEBACK_CHARS:
        return whole
    notice = "[beginning cut]\n"
    return notice + whole[len(notice) - _TRACEBACK_CHARS :]


def _storable(text: str) -> str:
    # PostgreSQL text accepts neither NUL nor lone surrogates
    return redact(text).replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")


def fail(sessions: Sessions, claim: Claim, error: BaseException, settings: Settings) -> list[Notification]:
    """Record why an attempt failed; the unit is then ready for a retry, split, or dead.

    Raises:
        StaleClaim: the worker no longer holds the unit; nothing was written.
    """

    def record(session: Session) -> list[Notification]:
        job, unit = _prove(session, claim)
        message = describe(error)
        attempts.end(session, claim.token, AttemptOutcome.FAILED, error=message)
        if job.cancel_requested:
            unit.state = UnitState.CANCELLED
            unit.token = None
            unit.lease_until = None
            unit.finished_at = sa.func.clock_timestamp()
            lifecycle.close_if_cancelled(session, job)
            return []
        # a server is asked about each pair by itself, so there is none to be found out
        at_fault = not isinstance(error, ModelUnavailable | Obsolete | ServerFailed)
        unit.final = isinstance(error, Obsolete)
        return retry_or_fail(
            session,
            job,
            unit,
            message,
            settings,
            stack_trace=_format_traceback(error),
            permanent=_is_permanent(error),
            split=at_fault,
        )

    return run_transaction(sessions, record)


def _is_permanent(error: BaseException) -> bool:
    return isinstance(error, RetllmError) and not error.retryable


def retry_or_fail(
    session: Session,
    job: Job,
    unit: Unit,
    error: str,
    settings: Settings,
    *,
    stack_trace: str | None = None,
    permanent: bool = False,
    split: bool = True,
) -> list[Notification]:
    """Schedule a retry with exponential backoff, or mark the unit dead if none is left or ``permanent``."""
    unit.traceback = stack_trace
    unit.waits_until = None
    if permanent or unit.attempt >= settings.max_attempts:
        return lifecycle.mark_dead(session, job, unit, error, split=split)
    unit.state = UnitState.READY
    unit.token = None
    unit.lease_until = None
    unit.announced_at = None
    unit.error = error
    unit.run_after = after(settings.backoff_seconds * 2 ** (unit.attempt - 1))
    session.flush()
    return []
