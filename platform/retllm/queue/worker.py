"""Runs units of any stage: claims them, renews their leases, does them, and records the outcomes (design: jobs)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain
from uuid import UUID

import structlog

from retllm.db.session import Sessions
from retllm.errors import JobCancelled, ServerAway, StaleClaim, UnitPostponed
from retllm.logs import carried
from retllm.media.copies import ModelPictures
from retllm.media.storage import Storage
from retllm.metrics import ATTEMPTS, ENDED, UNIT_SECONDS
from retllm.queue import claim as claims
from retllm.queue.claim import Claim, Lease
from retllm.queue.companions import claim_companions
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


# the unit that this process is doing, and the one that it is ending
_current: list[Claim] = []


def current_claims() -> list[Claim]:
    """Return the claims of the units that this process is doing or ending."""
    return list(_current)


# the last step of a unit: completes its claim; returns the units to notify workers of
LastStep = Callable[[], list[Notification]]
Result = list[Notification] | LastStep
# does the unit and its last step, or returns the last step, which may run in another thread
UnitFunction = Callable[[WorkerContext, LeasedUnit], Result]
# the same for several units; an error of one takes the place of its result, and one that is raised is that of all
UnitsFunction = Callable[[WorkerContext, Sequence[LeasedUnit]], Sequence[Result | Exception]]


class Finisher:
    """Runs the last step of a unit in a thread while the worker does the next unit; at most one at a time."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="finish")
        self._running: Future[None] | None = None

    def run(self, end: Callable[[], None]) -> None:
        """Wait for the last call to end, then call ``end`` in the thread."""
        self.wait()
        self._running = self._thread.submit(carried(end))

    def wait(self) -> None:
        """Wait until the last call has ended; log its error."""
        running, self._running = self._running, None
        error = running.exception() if running is not None else None
        if error is not None:
            # the unit is claimed again when its lease has run out
            log.error("unit.not_ended", reason=claims.describe(error), exc_info=error)


def run_unit(context: WorkerContext, unit_id: UUID, function: UnitFunction, finisher: Finisher | None = None) -> bool:
    """Claim the unit and do it with ``function``; return false if it can't be claimed.

    Errors of the unit are recorded and not raised; results of a worker that lost its claim are discarded.

    Args:
        finisher: runs the last step of the unit, if ``function`` returns one, after this call has returned.
    """
    return run_units(context, unit_id, lambda context, held: [function(context, held[0])], finisher=finisher)


def run_units(
    context: WorkerContext, unit_id: UUID, function: UnitsFunction, *, items: int = 1, finisher: Finisher | None = None
) -> bool:
    """Claim the unit, and others of its stage until they have ``items`` items, and do them together.

    Each unit is claimed, leased, fenced and ended by itself. Otherwise like :func:`run_unit`.
    """
    with structlog.contextvars.bound_contextvars(unit_id=str(unit_id)):
        claim = claims.claim_unit(context.sessions, unit_id, context.worker, context.settings)
        if claim is None:
            return False
        others = claim_companions(context.sessions, claim, items, context.worker, context.settings)
        _do(context, chain([claim], others), function, finisher)
    return True


def _do(context: WorkerContext, claiming: Iterable[Claim], function: UnitsFunction, finisher: Finisher | None) -> None:
    """Make an attempt of each unit, and end each of them by itself; each has its lease before the next is claimed."""
    began = time.monotonic()
    with ExitStack() as stack:
        held: list[LeasedUnit] = []
        endings: list[ExitStack] = []
        for claim in claiming:
            ATTEMPTS.labels(claim.stage).inc()
            ending = stack.enter_context(ExitStack())
            _current.append(claim)
            ending.callback(_current.remove, claim)
            with _logged(claim):
                log.info("unit.started")
                held.append(LeasedUnit(claim, ending.enter_context(Lease(context.sessions, claim, context.settings))))
            endings.append(ending)
        try:
            # lines of one unit have its ids, those of several only that of the first
            with _logged(held[0].claim) if len(held) == 1 else structlog.contextvars.bound_contextvars(units=len(held)):
                results = function(context, held)
        except Exception as error:
            results = [error] * len(held)
        # each unit is ended below, whatever happens to the others
        stack.pop_all()
    ends = [
        partial(_end, context, unit.claim, result, ending, began)
        for unit, result, ending in zip(held, results, endings, strict=True)
    ]
    if finisher is not None and any(callable(result) for result in results):
        finisher.run(lambda: _call_all(ends))
    else:
        _call_all(ends)


def _call_all(calls: Sequence[Callable[[], None]]) -> None:
    """Call all functions in their order, also after one of them has raised an error."""
    with ExitStack() as stack:
        for call in reversed(calls):
            stack.callback(call)


def _logged(claim: Claim) -> AbstractContextManager[object]:
    return structlog.contextvars.bound_contextvars(
        unit_id=str(claim.unit_id),
        job_id=str(claim.job_id),
        unit=f"{claim.stage}/{claim.seq}",
        attempt=claim.attempt,
    )


def _end(context: WorkerContext, claim: Claim, result: Result | Exception, ending: ExitStack, began: float) -> None:
    """End the attempt, record its metrics, and notify workers of the units that it opened."""

    def step() -> Result:
        if isinstance(result, Exception):
            raise result
        return result() if callable(result) else result

    with _logged(claim):
        with ending:
            ended, opened = _attempt(context, claim, step)
        UNIT_SECONDS.labels(claim.stage).observe(time.monotonic() - began)
        ENDED.labels(claim.stage, ended).inc()
        if ended == "done":
            log.info("unit.done")
        assert not callable(opened)
        context.notifier.notify(opened)


def _attempt(context: WorkerContext, claim: Claim, step: Callable[[], Result]) -> tuple[str, Result]:
    """Return the outcome of a step, and its result: the units to notify workers of, none if the claim was lost."""
    try:
        return _recorded(context, claim, step)
    except StaleClaim:
        log.warning("unit.stale")
        return "stale", []


def _recorded(context: WorkerContext, claim: Claim, step: Callable[[], Result]) -> tuple[str, Result]:
    try:
        return "done", step()
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
    except ServerAway as error:
        log.warning("unit.waits_for_server", reason=error.message)
        waits, opened = claims.wait_for_server(context.sessions, claim, error, context.settings)
        return "returned" if waits else "failed", opened
    except Exception as error:
        log.warning("unit.failed", reason=claims.describe(error), exc_info=True)
        return "failed", claims.fail(context.sessions, claim, error, context.settings)
