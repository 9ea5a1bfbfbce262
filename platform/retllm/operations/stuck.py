"""What work is stuck, why, and what to do about it: sentences for whoever runs the installation.

It reads only, through the indexes, and counts no further than ``queues.MAX_COUNTED``. Work that waits its turn behind
other work is not stuck.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import UnitState
from retllm.db.tables import Unit
from retllm.operations import queues, workers
from retllm.operations.queues import MAX_COUNTED, STAGE_OF, Queue
from retllm.operations.workers import WorkerStatus, WorkerView
from retllm.settings import Settings

DEAD_FOR = timedelta(days=1)
"""Units that were given up are told of for so long; the page of queues shows them until somebody deals with them."""
LONG = timedelta(hours=1)
"""No unit is so large that a healthy worker holds it for longer."""

# a living dispatcher has been round often in this time, and a living worker has told of itself
_MIN_TIMEOUT = 30.0

_NO_DISPATCHER = "Start a dispatcher (`retllm dispatch`). Where one runs, its log says what hinders it."


@dataclass(frozen=True)
class Stuck:
    """Something that does not go on: what is seen, and what to do."""

    what: str
    advice: str


def find(session: Session, settings: Settings) -> list[Stuck]:
    """Everything that is stuck now."""
    now = session.scalar(sa.select(sa.func.clock_timestamp()))
    assert now is not None
    scene = _Scene(session, settings, now)
    return [*_in_queues(scene), *_without_model(scene), *_held(scene), *_dead(scene)]


class _Scene:
    """What all the looks need."""

    def __init__(self, session: Session, settings: Settings, now: datetime) -> None:
        self.session = session
        self.now = now
        self.queues = queues.depths(session)
        self.living = [one for one in workers.every(session) if one.standing is WorkerStatus.ALIVE]
        self.patience = timedelta(
            seconds=max(_MIN_TIMEOUT, 5 * settings.dispatch_seconds, 3 * settings.republish_seconds)
        )

    def ago(self, moment: datetime) -> str:
        """How long ago that was, in words."""
        return lasting(self.now - moment)

    def serving(self, queue: str) -> list[WorkerView]:
        """The workers that live and serve this queue."""
        return [one for one in self.living if queue in one.queues]


def lasting(time: timedelta) -> str:
    """A time in the largest unit that it has two of, such as ``90 s`` and ``47 h``."""
    seconds = max(0, int(time.total_seconds()))
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _units(count: int) -> str:
    return "1 unit" if count == 1 else f"{count:,}{'' if count < MAX_COUNTED else ' or more'} units"


def _in_queues(scene: _Scene) -> Iterator[Stuck]:
    for queue in scene.queues:
        count = queue.waiting + queue.later
        if not count:
            continue
        reason = _reason(scene, queue)
        if reason is not None:
            waits = "waits" if count == 1 else "wait"
            since = f", the first for {scene.ago(queue.oldest)}" if queue.oldest else ""
            yield Stuck(f"{_units(count)} {waits} in the queue {queue.name}{since}: {reason.what}.", reason.advice)


def _reason(scene: _Scene, queue: Queue) -> Stuck | None:
    """Why a queue with work in it stands still; None where it goes on."""
    if queue.pause is not None:
        by = f"{queue.pause.by} paused it" if queue.pause.by else "it was paused"
        why = f" ({queue.pause.reason})" if queue.pause.reason else ""
        return Stuck(f"{by}{why}", "Resume it on the page Workers and queues of the dashboard.")
    serving = scene.serving(queue.name)
    if not serving:
        return Stuck("no worker that lives serves it", "Start a worker for it: `retllm up`, or as the Procfile says.")
    idle = [one for one in serving if not one.units]
    if not idle or queue.oldest is None or scene.now - queue.oldest < scene.patience or _moves(scene, idle):
        return None
    if scene.now - _last_notified(scene, queue) > scene.patience:
        return Stuck("no dispatcher announces it to the workers, who are idle", _NO_DISPATCHER)
    return Stuck(
        f"it is announced, but the worker {idle[0].name} is idle and does not take it",
        "Give the worker the REDIS_URL of the dispatcher; its log says whether it reaches Redis. Else start it anew.",
    )


def _moves(scene: _Scene, idle: list[WorkerView]) -> bool:
    """Whether something that these workers could have done was done lately: between two units all of them are idle."""
    stages = {STAGE_OF[queue] for one in idle for queue in one.queues if queue in STAGE_OF}
    done = sa.select(Unit.id).where(
        Unit.state == UnitState.DONE, Unit.stage.in_(stages), Unit.finished_at > scene.now - scene.patience
    )
    return bool(scene.session.scalar(sa.select(done.exists())))


def _last_notified(scene: _Scene, queue: Queue) -> datetime:
    """When one of the units that wait longest was announced last; when the first of them came if none ever was."""
    first = (
        sa.select(Unit.announced_at, Unit.run_after)
        .where(Unit.stage == STAGE_OF[queue.name], Unit.state == UnitState.READY, Unit.run_after <= sa.func.now())
        .order_by(Unit.run_after)
        .limit(100)
        .subquery()
    )
    last = sa.func.coalesce(sa.func.max(first.c.announced_at), sa.func.min(first.c.run_after))
    return scene.session.scalar(sa.select(last)) or scene.now


def _without_model(scene: _Scene) -> Iterator[Stuck]:
    of = {queue.name: queue.waiting + queue.later for queue in scene.queues}
    for worker in scene.living:
        for model in worker.models:
            if model.get("error") and not model.get("loaded"):
                waiting = sum(of[queue] for queue in worker.queues if queue in of)
                served = " and ".join(worker.queues)
                wait = f"; {_units(waiting)} of {served} {'waits' if waiting == 1 else 'wait'}" if waiting else ""
                yield Stuck(
                    f"The worker {worker.name} can't load the model {model.get('name')} "
                    f"({str(model['error']).rstrip('.')}){wait}.",
                    "Mend that on its machine, where `retllm doctor` tells more; the next unit has it loaded again. "
                    "Then give new attempts to what was given up meanwhile.",
                )


def _held(scene: _Scene) -> Iterator[Stuck]:
    leased = Unit.state == UnitState.LEASED
    gone = _counted(scene, Unit.lease_until, leased, Unit.lease_until < scene.now - scene.patience)
    if gone.units:
        yield Stuck(
            f"{_units(gone.units)} {'is' if gone.units == 1 else 'are'} held by workers that are gone, the first for "
            f"{scene.ago(gone.first)}: no dispatcher takes them back.",
            _NO_DISPATCHER,
        )
    query = (
        sa.select(Unit.worker, Unit.stage, Unit.job_id, Unit.started_at)
        .where(leased, Unit.lease_until >= scene.now, Unit.started_at < scene.now - LONG)
        .order_by(Unit.started_at)
        .limit(1)
    )
    for row in scene.session.execute(query):
        yield Stuck(
            f"The worker {row.worker} is at work on one unit ({row.stage}, job {row.job_id}) for "
            f"{scene.ago(row.started_at)}.",
            "If its log stands still, stop that worker: the unit goes to another one.",
        )


def _dead(scene: _Scene) -> Iterator[Stuck]:
    lately = (Unit.state == UnitState.DEAD, Unit.finished_at > scene.now - DEAD_FOR)
    count = _counted(scene, Unit.finished_at, *lately).units
    last = scene.session.execute(
        sa.select(Unit.job_id, Unit.error, Unit.finished_at).where(*lately).order_by(Unit.finished_at.desc()).limit(1)
    ).first()
    if last is None:
        return
    was = "was" if count == 1 else "were"
    error = str(last.error).rstrip(".")
    yield Stuck(
        f"{_units(count)} {was} given up within {lasting(DEAD_FOR)}, the last {scene.ago(last.finished_at)} ago, in "
        f"job {last.job_id}: {error}.",
        "Mend the cause, then give new attempts on the page Workers and queues of the dashboard, or by "
        "`retllm jobs retry JOB`.",
    )


def _counted(scene: _Scene, moment: Any, *where: sa.ColumnElement[bool]) -> Any:
    """How many units, and the first of their moments."""
    some = sa.select(moment.label("moment")).where(*where).order_by(moment).limit(MAX_COUNTED).subquery()
    return scene.session.execute(
        sa.select(sa.func.count().label("units"), sa.func.min(some.c.moment).label("first")).select_from(some)
    ).one()
