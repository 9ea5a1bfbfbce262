"""Overhead of the job core compared with a bare Celery task on the same Redis and in the same worker, in one run.

The two sides:

- ``job``: an index job with empty units. It is submitted like in the web server (job and units in one transaction, the
  hints after the commit), and each unit runs through the whole job core: claim, lease, a fenced transaction at its end,
  the check whether the job is complete. It can't be lost or counted twice.
- ``task``: an empty Celery task, with the options of the same application. Only Redis stores it.

The start latency is measured from just before the hint or message is sent until the worker holds the unit or runs the
task, so it includes sending. The rate is that of one job of many units, compared with as many tasks sent at once. The
sides alternate, so that other load on the machine affects both, and each goes first in every other round.
"""

from __future__ import annotations

import hashlib
import math
import random
import statistics
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import redis
import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import ItemKind, JobState
from retllm.db.jobs import Job, Unit
from retllm.db.session import make_sessions, transaction
from retllm.db.tables import Collection as Items
from retllm.db.tables import Item, new_id
from retllm.errors import StackError
from retllm.identity import accounts
from retllm.identity.actor import Actor
from retllm.indexing.submit import submit_index
from retllm.job_kinds import register_handlers
from retllm.queue.notifications import Notifier, celery_app
from retllm.settings import Settings
from retllm.stack import LocalStack, commands
from retllm.stack.child import ProcessSpec
from retllm.stack.stages import platform_stages

SIDES = ("job", "task")
BARE_TASK = "retllm.bench_bare"
STARTED = "retllm.bench.started"
"""The Redis list to which the worker appends ``NAME SECONDS`` for each measured start."""

_QUEUE = "bench"
_TIMEOUT_SECONDS = 60.0
# range of seconds between two starts: the worker blocks on Redis again; random, to avoid synchronisation with it
_PAUSE = (0.02, 0.05)
_PROCESSES = frozenset({"postgres", "redis", "migrate", "dispatch"})


@dataclass(frozen=True, slots=True)
class Overhead:
    """The result of one run.

    Attributes:
        starts: start latencies in seconds, by side.
        rates: units or tasks per second, by side, one per round.
        units: number of units of the job whose rate was measured.
    """

    starts: dict[str, list[float]]
    rates: dict[str, list[float]]
    units: int

    def start(self, side: str, share: float) -> float:
        """Return the quantile ``share`` of the start latency in seconds."""
        return quantile(self.starts[side], share)

    def rate(self, side: str) -> float:
        """Return the median rate per second."""
        return statistics.median(self.rates[side])

    def as_json(self) -> dict[str, Any]:
        """Return the result as a JSON object; times in milliseconds, ratios of the job core to the bare task."""
        found: dict[str, Any] = {"starts": len(self.starts["job"]), "units": self.units}
        found["rounds"] = len(self.rates["job"])
        for name, share in (("start_p50_ms", 0.5), ("start_p95_ms", 0.95)):
            found[name] = {side: round(1000 * self.start(side, share), 3) for side in SIDES}
            found[name]["ratio"] = round(self.start("job", share) / self.start("task", share), 3)
        found["per_second"] = {side: round(self.rate(side), 2) for side in SIDES}
        found["per_second"]["ratio"] = round(self.rate("job") / self.rate("task"), 4)
        return found


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least a ``share`` of ``values`` do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def measure_jobs(
    home: Path, starts: int, units: int, rounds: int, notify: Callable[[str], None] = lambda _: None
) -> Overhead:
    """Start a separate stack in ``home`` with one worker without models, measure, and stop it.

    Args:
        home: an empty folder.
        starts: number of measured starts of each side.
        units: number of units and of tasks in a round of the rate.
        rounds: number of rounds of the rate.
        notify: called with a short description of each step.

    Raises:
        StackError: a process can't be started, or a unit or task does not start or end in time.
    """
    register_handlers()
    settings = Settings(
        home=home, database_url=None, redis_url=None, storage_url=None, index_unit_items=1, log_level="WARNING"
    )
    with LocalStack(settings, _PROCESSES, stages=_stages, notify=notify) as stack, ExitStack() as closing:
        sides = _Sides(stack, settings, units, closing)
        notify("warming up")
        sides.warm_up()
        notify(f"{starts} starts of each side")
        latencies = _in_turns(starts, {"job": sides.job_start, "task": sides.task_start}, pause=True)
        notify(f"{rounds} x {units} units and tasks")
        rates = _in_turns(rounds, {"job": sides.job_rate, "task": sides.task_rate})
    return Overhead(latencies, rates, units)


def _in_turns(turns: int, sides: Mapping[str, Callable[[], float]], *, pause: bool = False) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(turns):
        for side in SIDES if turn % 2 else reversed(SIDES):
            if pause:
                time.sleep(random.uniform(*_PAUSE))  # noqa: S311 - not security-relevant
            found[side].append(sides[side]())
    return found


def _stages(
    settings: Settings,
    parts: Collection[str],
    env: Mapping[str, str],
    port: int,
    log_path: Callable[[str], Path],
    run: Path,
) -> Sequence[Sequence[ProcessSpec]]:
    """Return the platform's stages of ``parts``, and the worker without models."""
    ready_file = run / "bench.ready"
    options = commands.worker("embed")
    queues = options.index("--queues")
    argv = (*options[:2], "--app", "retllm.bench.job_worker", *options[4:queues], "--queues", f"embed,{_QUEUE}")
    worker = ProcessSpec(
        name="worker",
        argv=commands.python((*argv, *options[queues + 2 :], "--include", "retllm.stack.ready")),
        log=log_path("worker"),
        env={**env, commands.READY_VARIABLE: str(ready_file)},
        ready=ready_file.exists,
        cwd=Path("/"),
    )
    return [*platform_stages(settings, parts, env, port, log_path, run), [worker]]


class _Sides:
    """Both sides of the comparison on a running stack; each method returns its measurement."""

    def __init__(self, stack: LocalStack, settings: Settings, units: int, closing: ExitStack) -> None:
        self._settings = settings
        self._sessions = make_sessions(stack.database_url)
        closing.callback(self._sessions.kw["bind"].dispose)
        self._notifier = Notifier(stack.redis_url)
        self._app = celery_app(stack.redis_url)
        closing.callback(self._app.close)
        self._redis = closing.enter_context(redis.Redis.from_url(stack.redis_url))
        self._units = units
        with transaction(self._sessions) as session:
            self._user = accounts.create_user(session, "bench", uuid.uuid4().hex)
            self._one, self._many = (_collection(session, self._user.id, count) for count in (1, units))

    def warm_up(self) -> None:
        """Open all connections on both sides."""
        for _ in range(3):
            self.job_start()
            self.task_start()

    def job_start(self) -> float:
        """Return the seconds from the commit of a job of one unit until the worker holds that unit."""
        job, sent = self._submit(self._one)
        latency = self._await_start(str(job)) - sent
        self._await_end(job)
        return latency

    def task_start(self) -> float:
        """Return the seconds from sending a task until it runs."""
        name, sent = uuid.uuid4().hex, time.time()
        self._send(name)
        return self._await_start(name) - sent

    def job_rate(self) -> float:
        """Return the units per second of a job of many units, from its commit to its end."""
        job, sent = self._submit(self._many)
        self._await_start(str(job))
        return self._units / (self._await_end(job) - sent)

    def task_rate(self) -> float:
        """Return the tasks per second, from before the first is sent until the last runs."""
        name, sent = uuid.uuid4().hex, time.time()
        for _ in range(self._units - 1):
            self._send("")
        self._send(name)
        return self._units / (self._await_start(name) - sent)

    def _submit(self, collection_id: UUID) -> tuple[UUID, float]:
        with transaction(self._sessions) as session:
            submitted = submit_index(session, Actor.unlimited(self._user), collection_id, self._settings)
        sent = time.time()
        self._notifier.notify(submitted.units)
        return submitted.job.id, sent

    def _send(self, name: str) -> None:
        self._app.send_task(BARE_TASK, args=[name], queue=_QUEUE, retry=False, ignore_result=True)

    def _await_start(self, name: str) -> float:
        """Wait for the start of the unit or task; return its time by the worker's clock, which is this machine's."""
        entry: Any = self._redis.blpop([STARTED], timeout=_TIMEOUT_SECONDS)
        if entry is None:
            raise StackError(f"No unit or task started within {_TIMEOUT_SECONDS:.0f} seconds.")
        started, _, seconds = entry[1].decode().partition(" ")
        if started != name:
            raise StackError(f"{started} started instead of {name}.")
        return float(seconds)

    def _await_end(self, job_id: UUID) -> float:
        """Wait for the end of the job's last unit; return its time by the database's clock, which is this machine's."""
        deadline = time.monotonic() + _TIMEOUT_SECONDS + self._units / 10
        while time.monotonic() < deadline:
            with self._sessions() as session:
                if session.scalar(sa.select(Job.state).where(Job.id == job_id)) is JobState.SUCCEEDED:
                    last = session.scalar(sa.select(sa.func.max(Unit.finished_at)).where(Unit.job_id == job_id))
                    assert last is not None
                    return float(last.timestamp())
            time.sleep(0.02)
        raise StackError("A job of empty units did not end in time.")


def _collection(session: Session, owner_id: UUID, count: int) -> UUID:
    """Create a collection of ``count`` texts."""
    collection = Items(id=new_id(), owner_id=owner_id, name=f"{count} texts")
    session.add(collection)
    session.flush()
    texts = [f"text {number}" for number in range(count)]
    session.add_all(
        Item(
            id=new_id(),
            collection_id=collection.id,
            kind=ItemKind.TEXT,
            name=text,
            text=text,
            content_sha256=hashlib.sha256(text.encode()).hexdigest(),
            size_bytes=len(text),
        )
        for text in texts
    )
    return collection.id
