"""One fault after the other on a running platform, and what is true once each is over."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import sqlalchemy as sa
from tests.chaos.client import Client, GaveUp, Load, picture
from tests.chaos.client_log import broken_promises
from tests.chaos.journal import Blow
from tests.chaos.platform import DISPATCH, LEASE, Platform

from retllm.db.tables import Job
from retllm.queue.audit import violations
from retllm.queue.violations import Violation

_QUIET_SECONDS = 240.0
_DOUBLED = {"journal", "one_job_a_key", "each_input_once", "scored_once", "score_or_error", "ends_once"}
_LOST = {
    "accepted_is_kept",
    "ends_in_quiet",
    "open_has_work",
    "split_loses_nothing",
    "done_is_embedded",
    "done_is_scored",
    "whole_pool_is_scored",
    "lease_is_taken_back",
}


class Skip(Exception):
    """The fault can't be made on this machine; the message says why."""


@dataclass
class Outcome:
    """A row of the table."""

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
        """Nothing was lost, nothing counted twice, every rule holds."""
        return not (self.lost or self.doubled or self.violations)

    def as_json(self) -> dict[str, Any]:
        """The row as plain values."""
        return asdict(self) | {"sound": self.sound}


@dataclass
class Scene:
    """What a fault acts on. It calls ``hurt`` at each blow, with what it takes for lost."""

    platform: Platform
    client: Client
    chance: random.Random
    library: str = ""
    notes: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    blows: int = 0
    slack: float = 5.0
    """Seconds that a recovery may take longer than a lease and a look of the dispatcher."""
    pace: float = 0.0
    """Seconds for which each of those who submit jobs waits after a job, at most."""
    patience: float = 0.0
    """Seconds that the recovery from the present fault may take."""
    _blow: Blow = field(default_factory=lambda: Blow(0.0))

    @property
    def recovery(self) -> float:
        """Seconds after the last fault in which all that the lost ones held is taken up, and work goes on."""
        return LEASE + DISPATCH + self.slack

    def furnish(self) -> None:
        """A collection that is indexed in peace, for the searches."""
        self.library = self.client.collection()
        self.client.upload_texts(self.library, 20)
        answer = self.client.upload_pictures(self.library, *[picture((n, 9, 9)) for n in range(4)])
        assert answer.json()["added"] == 4, answer.text
        job = self.client.wait(self.client.index(self.library))
        assert job["state"] == "succeeded", job

    def hurt(self, deed: Callable[[], object]) -> None:
        """One blow: do it, and remember when, and which units were held then."""
        self._remember()
        deed()
        self.blows += 1

    def obeyed(self, moment: str, how: str = "end", seconds: float = 60) -> bool:
        """Order that the next process that comes to this moment ends or stops there; false if none came."""
        order = self.platform.order(moment, how)
        deadline = time.monotonic() + seconds
        while order.exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        if order.exists():
            order.unlink(missing_ok=True)
            return False
        if how != "slow":
            self._remember()
            self.blows += 1
        return True

    def healed(self) -> None:
        """The fault that lasted a while is over now; recovery counts from here."""
        self._remember()

    def _remember(self, but: Sequence[str] = ()) -> None:
        at = time.time()
        try:
            held, waiting = self.platform.held(but), self.platform.waiting()
        except sa.exc.OperationalError:
            held, waiting = (), 0
        self._blow = Blow(at, time.time(), held, waiting)

    def taken_back(self, seconds: float, but: Sequence[str]) -> bool:
        """Whether what is held now by others than ``but`` is let go of in time."""
        self._remember(but)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.platform.journal.recovery_seconds(self._blow) is not None:
                return True
            time.sleep(0.1)
        return False

    def idle_since_blow(self, seconds: float) -> list[str]:
        """The workers that took no unit after the last blow, though they had so long."""
        deadline = time.monotonic() + seconds
        while True:
            at_work = self.platform.journal.takers(self._blow.at)
            idle = [name for name in self.platform.workers if str(self.platform.forked[name].pid) not in at_work]
            if not idle or time.monotonic() > deadline:
                return idle
            time.sleep(0.2)

    def wrong(self, what: str) -> None:
        """Something is not as it must be."""
        self.complaints.append(what)

    def wait_for_work(self, but: Sequence[str] = (), seconds: float = 60) -> None:
        """Return when a worker, besides those in ``but``, holds a unit."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not set(self.platform.busy()) - set(but):
            time.sleep(0.01)

    def victim(self) -> str:
        """A worker: mostly one that is at work now."""
        busy = self.platform.busy()
        return self.chance.choice(busy if busy and self.chance.random() < 0.8 else self.platform.workers)

    def pause(self, least: float, most: float) -> None:
        """Let things go on for a moment."""
        time.sleep(self.chance.uniform(least, most))

    # judging

    def play(self, name: str, fault: Callable[[Scene], None], *, load: bool = True) -> Outcome:
        """Do it while jobs are in flight, wait until all is quiet, and look at everything."""
        began, mark, fenced = time.monotonic(), self.platform.journal.mark(), self.platform.fenced()
        before = set(self._violations())
        self.blows, self.notes, self.complaints, self._blow = 0, [], [], Blow(0.0)
        self.patience = self.recovery
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
        except GaveUp as gave_up:
            self.wrong(str(gave_up))
        self._wait_until_quiet()
        ended = {ending.job_id for ending in self.client.log.endings}
        for job_id in {accepted.job_id for accepted in self.client.log.accepted[-200:]} - ended:
            self.client.job(job_id)
        found = [one for one in self._violations() if one not in before]
        tally = self.platform.journal.tally(mark)
        outcome.times, outcome.jobs, outcome.units = self.blows, tally.jobs, tally.done
        outcome.retried, outcome.dead = tally.retried, tally.dead
        outcome.fenced = self.platform.fenced() - fenced
        outcome.lost = sum(one.rule in _LOST for one in found)
        outcome.doubled = sum(one.rule in _DOUBLED for one in found)
        outcome.violations = [str(one) for one in found] + self.complaints
        outcome.notes = self.notes
        self._judge_recovery(outcome)
        outcome.seconds = round(time.monotonic() - began, 1)
        return outcome

    def _judge_recovery(self, outcome: Outcome) -> None:
        if not self._blow.at:
            return
        took = self.platform.journal.recovery_seconds(self._blow)
        outcome.recovery_s = None if took is None else round(took, 1)
        if took is None or took > self.patience:
            said = "never" if took is None else f"after {took:.1f} s"
            outcome.violations.append(
                f"recovery: what was held was taken back {said}, not within {self.patience:.1f} s"
            )

    def _violations(self) -> list[Violation]:
        found = violations(self.platform.sessions, self.platform.storage, quiet=True)
        found += broken_promises(self.platform.sessions, self.client.log)
        return found + self.platform.journal.doubled()

    def _wait_until_quiet(self) -> None:
        deadline = time.monotonic() + _QUIET_SECONDS
        query = sa.select(sa.func.count()).where(Job.finished_at.is_(None))
        while time.monotonic() < deadline:
            with self.platform.sessions() as session:
                if not session.scalar(query):
                    return
            time.sleep(0.2)
        self.notes.append(f"not quiet after {_QUIET_SECONDS:g} s")
