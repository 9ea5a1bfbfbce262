"""Runs units of any stage: claims them, renews their leases, does them, and records the outcomes (design: jobs)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
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
from retllm.queue.notifications import Notifier
from retllm.queue.routing import Notification
from retllm.queue.turns import Turns, claim_companions, claim_notified, claim_some
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
    turns: Turns = field(default_factory=Turns)

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


@dataclass(frozen=True)
class AsideStep:
    """A last step that takes minutes of another server's work: it runs beside all further units of the worker."""

    step: LastStep

    def __call__(self) -> list[Notification]:
        """Run it."""
        return self.step()


Result = list[Notification] | LastStep
# does the unit and its last step, or returns the last step, which may run in another thread
UnitFunction = Callable[[WorkerContext, LeasedUnit], Result]
# the same for several units; an error of one takes the place of its result, and one that is raised is that of all
UnitsFunction = Callable[[WorkerContext, Sequence[LeasedUnit]], Sequence[Result | Exception]]
# begins to prepare units while others, the last argument, are done; gives the function that does them, and at its exit
# ends what it began
Begin = Callable[[WorkerContext, Sequence[LeasedUnit], Sequence[LeasedUnit]], AbstractContextManager[UnitsFunction]]

# for so long a message goes on with further units; then the worker looks for messages of its other queues
_GO_ON_SECONDS = 10.0


@dataclass(frozen=True)
class Following:
    """How a worker goes on after some units.

    Attributes:
        items: returns how many items to claim for the next units; 0 to end with the present ones.
        begin: begins to prepare them.
    """

    items: Callable[[], int]
    begin: Begin


class Finisher:
    """Runs the last step of a unit in a thread while the worker does the next unit; at most one at a time.

    Steps of the kind :class:`AsideStep` run in a thread of their own, which nothing waits for.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="finish")
        self._running: Future[None] | None = None
        self._aside: list[threading.Thread] = []

    def run_aside(self, end: Callable[[], None]) -> None:
        """Call ``end`` in a thread of its own; a process that ends waits for it."""
        thread = threading.Thread(target=carried(partial(_log_error, end)), name="aside")
        self._aside = [*filter(threading.Thread.is_alive, self._aside), thread]
        thread.start()

    def wait_aside(self) -> None:
        """Wait until all calls of :meth:`run_aside` have ended."""
        for thread in self._aside:
            thread.join()

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


def _log_error(end: Callable[[], None]) -> None:
    try:
        end()
    except Exception as error:
        log.exception("unit.not_ended", reason=claims.describe(error))


def run_unit(context: WorkerContext, unit_id: UUID, function: UnitFunction, finisher: Finisher | None = None) -> bool:
    """Claim the unit, or another whose turn it is, and do it with ``function``; return false if there is none.

    Errors of the unit are recorded and not raised; results of a worker that lost its claim are discarded.

    Args:
        finisher: runs the last step of the unit, if ``function`` returns one, after this call has returned.
    """
    return run_units(context, unit_id, lambda context, held: [function(context, held[0])], finisher=finisher)


def run_units(
    context: WorkerContext,
    unit_id: UUID,
    function: UnitsFunction,
    *,
    items: int = 1,
    finisher: Finisher | None = None,
    following: Following | None = None,
) -> bool:
    """Claim a unit as :func:`claim_notified`, and others of its stage until they have ``items`` items, and do them.

    Each unit is claimed, leased, fenced and ended by itself. With ``following`` it goes on with further units, claimed
    and begun before the present ones are done. Otherwise like :func:`run_unit`.
    """
    go_on_until = time.monotonic() + _GO_ON_SECONDS
    with structlog.contextvars.bound_contextvars(unit_id=str(unit_id)):
        claim = claim_notified(context.sessions, unit_id, context.worker, context.settings, context.turns)
        if claim is None:
            return False
        others = claim_companions(context.sessions, claim, items, context.worker, context.settings, context.turns)
        batch: _Batch | None = _Batch(context, chain([claim], others), function, following)
        with ThreadPoolExecutor(1, thread_name_prefix="following") as thread:
            while batch is not None:
                coming = None
                if following is not None and time.monotonic() < go_on_until:
                    coming = thread.submit(carried(_following), context, batch, function, following)
                try:
                    _do(context, batch, finisher)
                except BaseException:
                    batch.abandon()
                    if coming is not None and (some := coming.result()) is not None:
                        some.abandon()
                    raise
                batch = coming.result() if coming is not None else None
    return True


class _Batch:
    """Units that are done together, and begun; each has its lease before the next is claimed."""

    def __init__(
        self,
        context: WorkerContext,
        claiming: Iterable[Claim],
        function: UnitsFunction,
        following: Following | None = None,
        present: Sequence[LeasedUnit] = (),
    ) -> None:
        self.function = function
        self.held: list[LeasedUnit] = []
        self.endings: list[ExitStack] = []
        self.begun = ExitStack()
        with ExitStack() as stack:
            for claim in claiming:
                ATTEMPTS.labels(claim.stage).inc()
                ending = stack.enter_context(ExitStack())
                _current.append(claim)
                ending.callback(_current.remove, claim)
                with _logged(claim):
                    log.info("unit.started")
                    lease = ending.enter_context(Lease(context.sessions, claim, context.settings))
                self.held.append(LeasedUnit(claim, lease))
                self.endings.append(ending)
            if following is not None and self.held:
                try:
                    self.function = self.begun.enter_context(following.begin(context, self.held, present))
                except Exception as error:
                    # they are done all the same
                    log.warning("units.not_begun", reason=claims.describe(error))
            self._leases = stack.pop_all()

    def abandon(self) -> None:
        """End what was begun, and renew no lease any more."""
        with self._leases, self.begun:
            pass


def _following(context: WorkerContext, present: _Batch, function: UnitsFunction, following: Following) -> _Batch | None:
    """Claim and begin what comes after the present units; nothing beside a unit that is tried again."""
    claim = present.held[0].claim
    count = following.items() if claim.attempt == 1 else 0
    claiming = claim_some(context.sessions, claim.stage, count, context.worker, context.settings, context.turns)
    batch = _Batch(context, claiming, function, following, present.held)
    return batch if batch.held else None


def _do(context: WorkerContext, batch: _Batch, finisher: Finisher | None) -> None:
    """Make an attempt of each unit, and end each of them by itself."""
    began = time.monotonic()
    held = batch.held
    try:
        # lines of one unit have its ids, those of several only that of the first
        with (
            _logged(held[0].claim) if len(held) == 1 else _logged_together(held),
            batch.begun,
        ):
            results = batch.function(context, held)
    except Exception as error:
        results = [error] * len(held)
    ends = [
        partial(_end, context, unit.claim, result, ending, began)
        for unit, result, ending in zip(held, results, batch.endings, strict=True)
    ]
    if finisher is not None and any(isinstance(result, AsideStep) for result in results):
        finisher.run_aside(partial(_call_all, ends))
    elif finisher is not None and any(callable(result) for result in results):
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


def _logged_together(held: Sequence[LeasedUnit]) -> AbstractContextManager[object]:
    return structlog.contextvars.bound_contextvars(unit_id=str(held[0].claim.unit_id), units=len(held))


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
    except StaleClaim as stale:
        # an error of a unit that is no longer its own, whose rows may be gone, is none of the job
        error = stale.__context__
        log.warning("unit.stale", **({"reason": claims.describe(error)} if error else {}))
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
        opened = claims.fail(context.sessions, claim, error, context.settings)
        log.warning("unit.failed", reason=claims.describe(error), exc_info=True)
        return "failed", opened
