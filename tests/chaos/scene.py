"""Injects faults into a running platform, and checks what must hold after each of them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from tests.chaos import large
from tests.chaos.client import Client, Load, NoAnswer, files_to_upload, picture
from tests.chaos.client_log import client_violations
from tests.chaos.journal import FaultSnapshot
from tests.chaos.platform import LEASE, Platform

from retllm.db.deletion import WITH_DELETED
from retllm.db.jobs import Job
from retllm.db.tables import Collection
from retllm.queue.audit import violations
from retllm.queue.audit_files import orphans
from retllm.queue.violations import Violation
from retllm.uploads.orphans import delete_orphans

_QUIET_SECONDS = 240.0
_SWEEP_SECONDS = 30.0
_BUILDS = 6
_BUILD_SECONDS = 20.0
_DOUBLED = {
    "journal",
    "one_job_a_key",
    "each_input_once",
    "scored_once",
    "score_or_error",
    "ends_once",
    "added_once",
    "one_outcome_a_file",
}
_LOST = {
    "accepted_is_kept",
    "ends_in_quiet",
    "open_has_work",
    "split_loses_nothing",
    "done_is_embedded",
    "done_is_scored",
    "whole_pool_is_scored",
    "lease_is_taken_back",
    "acknowledged_is_kept",
    "good_file_goes_in",
    "file_has_its_outcome",
    "waiting_file_has_its_unit",
    "files_match",
}


class Skip(Exception):
    """The fault can't be injected on this machine; the message says why."""


@dataclass
class Outcome:
    """The outcome of a fault: a row of the table."""

    fault: str
    times: int = 0
    jobs: int = 0
    units: int = 0
    retried: int = 0
    dead: int = 0
    fenced: int = 0
    lost: int = 0
    doubled: int = 0
    recovery_s: float | None = None
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    skipped: str | None = None

    @property
    def sound(self) -> bool:
        """Whether nothing was lost or counted twice and every rule holds."""
        return not (self.lost or self.doubled or self.violations)

    def as_json(self) -> dict[str, Any]:
        """Return the row as plain values."""
        return asdict(self) | {"sound": self.sound}


@dataclass
class Scene:
    """The platform, its client and its load; a fault calls ``inject`` or ``interrupt_at`` for each injection."""

    platform: Platform
    client: Client
    chance: random.Random
    library: str = ""
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    injections: int = 0
    slack: float = 5.0
    """Seconds that a recovery may take in addition to a lease and a round of the dispatcher."""
    pace: float = 0.0
    """The longest pause, in seconds, of a thread of the load after it has submitted a job."""
    recovery_limit: float = 0.0
    """Seconds that the recovery from the current fault may take."""
    _snapshot: FaultSnapshot = field(default_factory=lambda: FaultSnapshot(0.0))

    @property
    def max_recovery(self) -> float:
        """Seconds after an injection within which the lost units are taken back and work continues."""
        return LEASE + self.platform.dispatch_seconds + self.slack

    def create_library(self) -> None:
        """Create and index the collection for the searches, and do one job of each kind without faults."""
        self.library = self.client.collection()
        self.client.upload_texts(self.library, 20)
        answer = self.client.upload_pictures(self.library, *[picture((n, 9, 9)) for n in range(4)])
        assert answer.json()["added"] == 4, answer.text
        upload = self.client.open_upload(self.client.collection())
        self.client.upload(upload, files_to_upload())
        for job_id in (self.client.index(self.library), upload):
            assert (job := self.client.wait(job_id))["state"] == "succeeded", job
        job = self.client.wait(self.client.search(self.library))
        assert job["state"] == "succeeded", job

    def inject(self, action: Callable[[], object]) -> None:
        """Run an action that injects a fault, after a snapshot of the leased units."""
        self._take_snapshot()
        action()
        self.injections += 1

    def interrupt_at(self, moment: str, action: str = "end", seconds: float = 60) -> bool:
        """Order the next process that reaches this moment to end or stop there; return False if none reached it."""
        order = self.platform.order(moment, action)
        deadline = time.monotonic() + seconds
        while order.exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        if order.exists():
            order.unlink(missing_ok=True)
            return False
        if action != "slow":
            self._take_snapshot()
            self.injections += 1
        return True

    def fault_ended(self) -> None:
        """Measure the recovery from now on, since a fault with a duration is over."""
        self._take_snapshot()

    def _take_snapshot(self, excluding: Sequence[str] = ()) -> None:
        at = time.time()
        try:
            held, waiting = self.platform.held(excluding), self.platform.waiting()
        except sa.exc.OperationalError:
            held, waiting = (), 0
        self._snapshot = FaultSnapshot(at, time.time(), held, waiting)

    def reclaimed(self, seconds: float, excluding: Sequence[str]) -> bool:
        """Return whether the units that other workers than ``excluding`` hold now are released in time."""
        self._take_snapshot(excluding)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.platform.journal.recovery_seconds(self._snapshot) is not None:
                return True
            time.sleep(0.1)
        return False

    def idle_workers(self, seconds: float) -> list[str]:
        """Return the workers that have claimed no unit since the last snapshot, after up to ``seconds``."""
        deadline = time.monotonic() + seconds
        while True:
            claimers = self.platform.journal.claimers(self._snapshot.at)
            idle = [name for name in self.platform.workers if str(self.platform.forked[name].pid) not in claimers]
            if not idle or time.monotonic() > deadline:
                return idle
            time.sleep(0.2)

    def report(self, problem: str) -> None:
        """Record a problem of the current fault."""
        self.problems.append(problem)

    def wait_for_work(self, excluding: Sequence[str] = (), seconds: float = 60) -> None:
        """Wait until a worker that is not in ``excluding`` holds a unit."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not set(self.platform.busy()) - set(excluding):
            time.sleep(0.01)

    def victim(self) -> str:
        """Return a random worker, mostly one that holds a unit."""
        busy = self.platform.busy()
        return self.chance.choice(busy if busy and self.chance.random() < 0.8 else self.platform.workers)

    @contextmanager
    def building(self) -> Iterator[tuple[str, UUID]]:
        """Let the server build an index, and wait in the middle of that; yield the collection and the job."""
        for _ in range(_BUILDS):
            # what a lost attempt left is dropped first, which waits for that transaction too, so it is ended again
            with large.writing(self.platform.sessions):
                made = self.client.index_many()
                deadline = time.monotonic() + _BUILD_SECONDS
                while time.monotonic() < deadline:
                    if large.building(self.platform.sessions):
                        yield made
                        return
                    time.sleep(0.02)
        raise NoAnswer("no index was being built")

    def interrupt_build(self, action: str = "end", *, delete: bool = False) -> None:
        """Let a worker end or stop in the middle of building an index; ``delete`` the collection meanwhile."""
        with self.building() as (collection, job):
            if not self.interrupt_at("build", action):
                self.report("no worker waited for an index")
            if delete:
                self.client.delete(collection, job)

    def interrupt_removal(self, action: str = "end") -> None:
        """Let a dispatcher end or stop in the middle of removing a deleted collection."""
        collection = self.client.collection()
        upload = self.client.open_upload(collection)
        self.client.upload(upload, files_to_upload())
        self.client.delete(collection, upload)
        if not self.interrupt_at("remove", action):
            self.report("no dispatcher removed the collection")

    def pause(self, least: float, most: float) -> None:
        """Wait for a random time."""
        time.sleep(self.chance.uniform(least, most))

    # results
    def run(self, name: str, fault: Callable[[Scene], None], *, load: bool = True) -> Outcome:
        """Inject a fault while jobs are in flight, wait until all jobs are over, and check every rule."""
        began, mark, fenced = time.monotonic(), self.platform.journal.mark(), self.platform.fenced()
        before = set(self._violations())
        self.injections, self.notes, self.problems, self._snapshot = 0, [], [], FaultSnapshot(0.0)
        self.recovery_limit = self.max_recovery
        outcome = Outcome(name)
        try:
            if load:
                with Load(self.client, self.library, self.chance.randrange(1 << 30), pace=self.pace):
                    self.pause(0.5, 1.0)
                    fault(self)
            else:
                fault(self)
        except Skip as skip:
            outcome.skipped = str(skip)
        except NoAnswer as error:
            self.report(str(error))
        self._wait_until_quiet()
        ended = {ending.job_id for ending in self.client.log.endings}
        for job_id in {accepted.job_id for accepted in self.client.log.accepted[-200:]} - ended:
            self.client.job(job_id)
        self._sweep()
        self.problems += large.problems(self.platform.sessions)
        found = [one for one in self._violations() if one not in before]
        tally = self.platform.journal.tally(mark)
        outcome.times, outcome.jobs, outcome.units = self.injections, tally.jobs, tally.done
        outcome.retried, outcome.dead = tally.retried, tally.dead
        outcome.fenced = self.platform.fenced() - fenced
        outcome.lost = sum(one.rule in _LOST for one in found)
        outcome.doubled = sum(one.rule in _DOUBLED for one in found)
        outcome.violations = [str(one) for one in found] + self.problems
        outcome.notes = self.notes
        self._check_recovery(outcome)
        outcome.seconds = round(time.monotonic() - began, 1)
        return outcome

    def _check_recovery(self, outcome: Outcome) -> None:
        if not self._snapshot.at:
            return
        took = self.platform.journal.recovery_seconds(self._snapshot)
        outcome.recovery_s = None if took is None else round(took, 1)
        if took is None or took > self.recovery_limit:
            when = "never" if took is None else f"after {took:.1f} s"
            outcome.violations.append(
                f"recovery: the leased units were taken back {when}, not within {self.recovery_limit:.1f} s"
            )

    def _sweep(self) -> None:
        """Sweep the files of killed requests and workers; what is named stays, as the audit of files shows.

        Repeatedly, since an attempt that lost its unit, or whose job was cancelled, may still be writing.
        """
        platform = self.platform
        deadline = time.monotonic() + _SWEEP_SECONDS
        while True:
            delete_orphans(platform.sessions, platform.storage, age=timedelta(0))
            with platform.sessions() as session:
                left = [key for key in orphans(session, platform.storage) if not key.startswith("tmp/")]
            if not left:
                return
            if time.monotonic() > deadline:
                self.report(f"files without a row were left after a sweep: {left[:3]}")
                return
            time.sleep(0.2)

    def _violations(self) -> list[Violation]:
        found = violations(self.platform.sessions, self.platform.storage, quiet=True)
        found += client_violations(self.platform.sessions, self.client.log)
        return found + self.platform.journal.violations()

    def _wait_until_quiet(self) -> None:
        deadline = time.monotonic() + _QUIET_SECONDS
        open_jobs = sa.select(Job.id).where(Job.finished_at.is_(None))
        deleted = sa.select(Collection.id).where(Collection.deleted_at.is_not(None)).execution_options(**WITH_DELETED)
        while time.monotonic() < deadline:
            with self.platform.sessions() as session:
                if all(session.scalar(query.limit(1)) is None for query in (open_jobs, deleted)):
                    return
            time.sleep(0.2)
        self.notes.append(f"not quiet after {_QUIET_SECONDS:g} s")
