"""Runs one unit of any stage: claims it, renews its lease, does it, and records the outcome (design: jobs)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import structlog

from retllm.db.session import Sessions
from retllm.errors import JobCancelled, StaleClaim, UnitPostponed
from retllm.media.copies import ModelPictures
from retllm.media.storage import Storage
from retllm.metrics import ATTEMPTS, ENDED, UNIT_SECONDS
from retllm.queue import claim as claims
from retllm.queue.claim import Claim, Lease
from retllm.queue.notifications import Notification, Notifier
from retllm.settings import Settings

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class WorkerContext:
    """What a worker needs besides its model."""

    sessions: Sessions
    storage: Storage
    settings: Settings
    notifier: Notifier
    worker: str

    @property
    def pictures(self) -> ModelPictures:
        """The pictures of items as this worker's models read them."""
        return ModelPictures(self.sessions, self.storage, self.settings)


@dataclass(frozen=True)
class LeasedUnit:
    """A claimed unit with its lease."""

    claim: Claim
    lease: Lease


# at most one: a process does one unit at a time
_current: list[Claim] = []


def current_claim() -> Claim | None:
    """Return the claim of the unit that this process is doing."""
    return next(iter(_current), None)


# does the unit and completes its claim; returns the units to notify workers of
UnitFunction = Callable[[WorkerContext, LeasedUnit], list[Notification]]


def run_unit(context: WorkerContext, unit_id: UUID, function: UnitFunction) -> bool:
    """Claim the unit and do it with ``function``; return false if it can't be claimed.

    Errors of the unit are recorded and not raised; results of a worker that lost its claim are discarded.
    """
    with structlog.contextvars.bound_contextvars(unit_id=str(unit_id)):
        claim = claims.claim_unit(context.sessions, unit_id, context.worker, context.settings)
        if claim is None:
            return False
        with structlog.contextvars.bound_contextvars(
            job_id=str(claim.job_id), unit=f"{claim.stage}/{claim.seq}", attempt=claim.attempt
        ):
            _current.append(claim)
            try:
                opened = _measured_attempt(context, claim, function)
            finally:
                _current.remove(claim)
            context.notifier.notify(opened)
    return True


def _measured_attempt(context: WorkerContext, claim: Claim, function: UnitFunction) -> list[Notification]:
    """Make the attempt and record its metrics; return the units to notify workers of, none if the claim was lost."""
    ATTEMPTS.labels(claim.stage).inc()
    began = time.monotonic()
    outcome, opened = "stale", list[Notification]()
    try:
        outcome, opened = _attempt(context, claim, function)
    except StaleClaim:
        log.warning("unit.stale")
    UNIT_SECONDS.labels(claim.stage).observe(time.monotonic() - began)
    ENDED.labels(claim.stage, outcome).inc()
    return opened


def _attempt(context: WorkerContext, claim: Claim, function: UnitFunction) -> tuple[str, list[Notification]]:
    """Return the outcome of the attempt and the units to notify workers of."""
    log.info("unit.started")
    try:
        with Lease(context.sessions, claim, context.settings) as lease:
            opened = function(context, LeasedUnit(claim, lease))
    except StaleClaim:
        raise
    except JobCancelled:
        log.info("unit.cancelled")
        claims.release(context.sessions, claim)
        return "cancelled", []
    except UnitPostponed as error:
        log.info("unit.postponed", seconds=error.seconds)
        claims.release(context.sessions, claim, error.seconds)
        return "returned", []
    except Exception as error:
        log.warning("unit.failed", reason=claims.describe(error), exc_info=True)
        return "failed", claims.fail(context.sessions, claim, error, context.settings)
    log.info("unit.done")
    return "done", opened
