"""Finds stuck work and explains to the administrator why it is stuck and what to do.

Read-only; every query uses an index and counts up to ``queues.MAX_COUNTED``. Work that waits behind other work is not
stuck.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.deletion import WITH_DELETED
from retllm.db.enums import Stage, UnitState
from retllm.db.jobs import Unit
from retllm.db.tables import Collection
from retllm.operations import queues, workers
from retllm.operations.queues import MAX_COUNTED, Queue
from retllm.operations.workers import WorkerStatus, WorkerView
from retllm.queue.ready import is_ready, scorers_of_ready
from retllm.queue.routing import QUEUE_OF, routing_of
from retllm.scorer_address import is_remote_name
from retllm.settings import Settings, public_name

DEAD_FOR = timedelta(days=1)
"""Dead units are reported for this time; the page of queues shows them until somebody retries them."""
LONG = timedelta(hours=1)
"""No healthy worker holds a unit for longer."""

# a live dispatcher does many rounds in this time, and a live worker sends heartbeats
_MIN_TIMEOUT = 30.0

_NO_MODEL = (
    "Fix the model on that machine (see `retllm doctor` there). The next unit loads it. Then retry the dead units."
)
_NO_SERVER = "Start or correct the server (see `retllm doctor` on that machine). The next unit asks it again."
_NO_DISPATCHER = "Start a dispatcher with `retllm dispatch`. If one is running, look for errors in its log."


@dataclass(frozen=True)
class Stuck:
    """One problem: what is stuck and what to do."""

    what: str
    advice: str


def find(session: Session, settings: Settings) -> list[Stuck]:
    """Return all problems."""
    now = session.scalar(sa.select(sa.func.clock_timestamp()))
    assert now is not None
    state = _State(session, settings, now)
    return [*_in_queues(state), *_without_model(state), *_held(state), *_dead(state), *_not_removed(state)]


class _State:
    """The state that all checks share."""

    def __init__(self, session: Session, settings: Settings, now: datetime) -> None:
        self.session = session
        self.now = now
        self.routing = routing_of(settings)
        self.scorer = public_name(settings.scorer_name)
        self.queues = queues.depths(session, self.routing)
        self.live_workers = [one for one in workers.every(session) if one.state is WorkerStatus.ALIVE]
        self.timeout = timedelta(
            seconds=max(_MIN_TIMEOUT, 5 * settings.dispatch_seconds, 3 * settings.republish_seconds)
        )

    def ago(self, moment: datetime) -> str:
        """Return how long ago that was, in words."""
        return format_duration(self.now - moment)

    def serving(self, queue: str) -> list[WorkerView]:
        """Return the live workers that serve this queue."""
        return [one for one in self.live_workers if queue in one.queues]


def format_duration(time: timedelta) -> str:
    """Return a time in the largest unit of which it has at least two, such as ``90 s`` or ``47 h``."""
    seconds = max(0, int(time.total_seconds()))
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _units(count: int) -> str:
    return "1 unit" if count == 1 else f"{count:,}{'' if count < MAX_COUNTED else ' or more'} units"


def _in_queues(state: _State) -> Iterator[Stuck]:
    for queue in state.queues:
        count = queue.waiting + queue.later
        if not count:
            continue
        reason = _reason(state, queue)
        if reason is not None:
            waits = "waits" if count == 1 else "wait"
            since = f", the first for {state.ago(queue.oldest)}" if queue.oldest else ""
            what = f"{_units(count)} {waits} in the queue {queue.name}{_of_others(state, queue)}{since}: {reason.what}."
            yield Stuck(what, reason.advice)


def _of_others(state: _State, queue: Queue) -> str:
    """Return which scorers the units of the main scorer's queue are of that this configuration does not have."""
    if queue.name != QUEUE_OF[Stage.FINE]:
        return ""
    others = [one for one in scorers_of_ready(state.session, state.routing, queue.name) if one != state.scorer]
    named = ", ".join(filter(None, others))
    return f" (of {named}: not configured here, see RETLLM_EXTRA_SCORERS)" if named else ""


def _reason(state: _State, queue: Queue) -> Stuck | None:
    """Return why a queue with work makes no progress; None if it does."""
    if queue.pause is not None:
        by = f"{queue.pause.by} paused it" if queue.pause.by else "it was paused"
        why = f" ({queue.pause.reason})" if queue.pause.reason else ""
        return Stuck(f"{by}{why}", "Resume it on the page Workers and queues of the dashboard.")
    serving = state.serving(queue.name)
    if not serving:
        return Stuck("no live worker serves it", "Start a worker for it: use `retllm up`, or see the Procfile.")
    if queue.awaited is not None:
        return Stuck(queue.awaited.removesuffix("."), "Start the server again; the searches go on by themselves.")
    idle = [worker for worker in serving if not worker.units]
    if not idle or queue.oldest is None or state.now - queue.oldest < state.timeout or _progresses(state, idle):
        return None
    if state.now - _last_notified(state, queue) > state.timeout:
        return Stuck("no dispatcher notifies the workers, which are idle", _NO_DISPATCHER)
    return Stuck(
        f"a dispatcher sent notifications, but the worker {idle[0].name} is idle and does not claim the work",
        "Check in the log of the worker that it reaches Redis, and that it has the REDIS_URL of the dispatcher. "
        "Otherwise restart it.",
    )


def _progresses(state: _State, idle: list[WorkerView]) -> bool:
    """Return whether a unit that these workers serve was done recently; between two units all of them are idle."""
    served = {queue for one in idle for queue in one.queues if queue in state.routing.queues}
    recent = (Unit.state == UnitState.DONE, Unit.finished_at > state.now - state.timeout)
    done = (sa.select(Unit.id).where(*state.routing.within(queue), *recent).limit(1) for queue in served)
    return any(state.session.scalar(query) is not None for query in done)


def _last_notified(state: _State, queue: Queue) -> datetime:
    """Return when workers were last notified of the longest waiting units; else since when the first one waits."""
    first = (
        sa.select(Unit.announced_at, Unit.run_after)
        .where(*is_ready(state.session, state.routing, queue.name), Unit.run_after <= sa.func.now())
        .order_by(Unit.run_after)
        .limit(100)
        .subquery()
    )
    last = sa.func.coalesce(sa.func.max(first.c.announced_at), sa.func.min(first.c.run_after))
    return state.session.scalar(sa.select(last)) or state.now


def _without_model(state: _State) -> Iterator[Stuck]:
    of = {queue.name: queue.waiting + queue.later for queue in state.queues}
    for worker in state.live_workers:
        for model in worker.models:
            if model.get("error") and not model.get("loaded"):
                waiting = sum(of[queue] for queue in worker.queues if queue in of)
                served = " and ".join(worker.queues)
                wait = f"; {_units(waiting)} of {served} {'waits' if waiting == 1 else 'wait'}" if waiting else ""
                remote = is_remote_name(str(model.get("name")))
                yield Stuck(
                    f"The worker {worker.name} can't {'use' if remote else 'load'} the model {model.get('name')} "
                    f"({str(model['error']).rstrip('.')}){wait}.",
                    _NO_SERVER if remote else _NO_MODEL,
                )


def _held(state: _State) -> Iterator[Stuck]:
    leased = Unit.state == UnitState.LEASED
    expired = _counted(state, Unit.lease_until, leased, Unit.lease_until < state.now - state.timeout)
    if expired.units:
        yield Stuck(
            f"{_units(expired.units)} {'has an expired lease' if expired.units == 1 else 'have expired leases'}, "
            f"the first for {state.ago(expired.first)}: no dispatcher takes them back.",
            _NO_DISPATCHER,
        )
    query = (
        sa.select(Unit.worker, Unit.stage, Unit.job_id, Unit.started_at)
        .where(leased, Unit.lease_until >= state.now, Unit.started_at < state.now - LONG)
        .order_by(Unit.started_at)
        .limit(1)
    )
    for row in state.session.execute(query):
        yield Stuck(
            f"The worker {row.worker} has held one unit ({row.stage}, job {row.job_id}) for "
            f"{state.ago(row.started_at)}.",
            "If its log shows no progress, stop that worker; another one then does the unit.",
        )


def _dead(state: _State) -> Iterator[Stuck]:
    yield from _dead_of(
        state,
        "Fix the cause, then retry on the page Workers and queues of the dashboard, or with `retllm jobs retry JOB`.",
        Unit.final.is_(False),
    )
    yield from _dead_of(state, "No retry can help: begin these jobs again, as the error says.", Unit.final.is_(True))


def _dead_of(state: _State, advice: str, *kind: sa.ColumnElement[bool]) -> Iterator[Stuck]:
    recent = (Unit.state == UnitState.DEAD, Unit.finished_at > state.now - DEAD_FOR, *kind)
    count = _counted(state, Unit.finished_at, *recent).units
    last = state.session.execute(
        sa.select(Unit.job_id, Unit.error, Unit.finished_at).where(*recent).order_by(Unit.finished_at.desc()).limit(1)
    ).first()
    if last is None:
        return
    error = str(last.error).rstrip(".")
    yield Stuck(
        f"{_units(count)} died in the last {format_duration(DEAD_FOR)}, the last one {state.ago(last.finished_at)} ago "
        f"in job {last.job_id}: {error}.",
        advice,
    )


def _counted(state: _State, moment: Any, *where: sa.ColumnElement[bool]) -> Any:
    """Return the number of units and the earliest ``moment``."""
    bounded = sa.select(moment.label("moment")).where(*where).order_by(moment).limit(MAX_COUNTED).subquery()
    return state.session.execute(
        sa.select(sa.func.count().label("units"), sa.func.min(bounded.c.moment).label("first")).select_from(bounded)
    ).one()


def _not_removed(state: _State) -> Iterator[Stuck]:
    """Report collections that were deleted long ago, of which something is still there."""
    is_late = (Collection.kept_until.is_(None), Collection.deleted_at < state.now - LONG)
    late = sa.select(Collection.deleted_at).where(*is_late)
    first = late.order_by(Collection.deleted_at).limit(MAX_COUNTED).execution_options(**WITH_DELETED)
    if found := list(filter(None, state.session.scalars(first))):
        count, are = len(found), "collection is" if len(found) == 1 else "collections are"
        since = "" if count == 1 else ", the first"
        yield Stuck(
            f"{count:,}{'' if count < MAX_COUNTED else ' or more'} deleted {are} not removed yet{since} "
            f"for {state.ago(found[0])}.",
            "Look for collection.not_removed in the log of the dispatcher, which has the reason. It tries again by "
            "itself; a very large collection takes its time.",
        )
