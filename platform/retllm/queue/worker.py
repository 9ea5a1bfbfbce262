"""Running one unit, whatever its stage: claim, keep the lease, do, and always say how it ended (design: jobs)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import structlog

from retllm.db.session import Sessions
from retllm.errors import JobCancelled, StaleClaim
from retllm.media.storage import Storage
from retllm.metrics import ATTEMPTS, ENDED, UNIT_SECONDS
from retllm.queue import claim as claims
from retllm.queue.claim import Claim, Lease
from retllm.queue.notifications import Notification, Notifier
from retllm.settings import Settings

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class WorkerContext:
    """What a worker works with, besides its model."""

    sessions: Sessions
    storage: Storage
    settings: Settings
    notifier: Notifier
    worker: str


@dataclass(frozen=True)
class LeasedUnit:
    """A claimed unit with its lease."""

    claim: Claim
    lease: Lease


# of this process, which does one unit at a time
_present: list[Claim] = []


def present() -> Claim | None:
    """The claim of the unit that this process is at work on."""
    return next(iter(_present), None)


# does the unit and completes its claim; returns the units to announce
UnitFunction = Callable[[WorkerContext, LeasedUnit], list[Notification]]


def run_unit(bench: WorkerContext, unit_id: UUID, doing: UnitFunction) -> bool:
    """Do the unit if it can be claimed; false if it is not there to be done any more.

    An error of the unit is recorded on it and does not leave this function; results of a worker that lost
    its claim are dropped.
    """
    with structlog.contextvars.bound_contextvars(unit_id=str(unit_id)):
        claim = claims.claim_unit(bench.sessions, unit_id, bench.worker, bench.settings)
        if claim is None:
            return False
        with structlog.contextvars.bound_contextvars(
            job_id=str(claim.job_id), unit=f"{claim.stage}/{claim.seq}", attempt=claim.attempt
        ):
            _present.append(claim)
            try:
                opened = _counted(bench, claim, doing)
            finally:
                _present.remove(claim)
            bench.notifier.notify(opened)
    return True


def _counted(bench: WorkerContext, claim: Claim, doing: UnitFunction) -> list[Notification]:
    """An attempt, with its seconds and how it ended; nothing is to be announced where the claim was lost."""
    ATTEMPTS.labels(claim.stage).inc()
    began = time.monotonic()
    outcome, opened = "stale", list[Notification]()
    try:
        outcome, opened = _attempt(bench, claim, doing)
    except StaleClaim:
        log.warning("unit.stale")
    UNIT_SECONDS.labels(claim.stage).observe(time.monotonic() - began)
    ENDED.labels(claim.stage, outcome).inc()
    return opened


def _attempt(bench: WorkerContext, claim: Claim, doing: UnitFunction) -> tuple[str, list[Notification]]:
    """How the attempt ended, and the units to announce."""
    log.info("unit.started")
    try:
        with Lease(bench.sessions, claim, bench.settings) as lease:
            opened = doing(bench, LeasedUnit(claim, lease))
    except StaleClaim:
        raise
    except JobCancelled:
        log.info("unit.cancelled")
        claims.release(bench.sessions, claim)
        return "cancelled", []
    except Exception as error:
        log.warning("unit.failed", reason=claims.describe(error), exc_info=True)
        return "failed", claims.fail(bench.sessions, claim, error, bench.settings)
    log.info("unit.done")
    return "done", opened
