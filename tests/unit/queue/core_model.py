"""A small model of the job core: the expected state after each step."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from retllm.db.enums import AttemptOutcome, JobState, Stage, UnitState
from retllm.queue.claim import Claim

ATTEMPTS = 2
VERSION = "v1"
OPEN = (UnitState.READY, UnitState.LEASED)


@dataclass
class MUnit:
    """A unit in the model.

    ``holder`` is the number of the claim that holds it, ``trail`` the number and the outcome of every attempt.
    """

    items: list[str]
    state: UnitState = UnitState.READY
    attempt: int = 0
    holder: int | None = None
    trail: list[tuple[int, AttemptOutcome | None]] = field(default_factory=list)

    def ended(self, outcome: AttemptOutcome) -> None:
        """End the current attempt."""
        number, current = self.trail[-1]
        assert current is None
        self.trail[-1] = (number, outcome)


@dataclass
class MJob:
    """A job in the model; units by stage and number."""

    id: UUID
    key: str
    kind: str
    collection: UUID
    items: list[str]
    state: JobState = JobState.QUEUED
    cancel: bool = False
    units: dict[tuple[Stage, int], MUnit] = field(default_factory=dict)
    endings: int = 0

    @property
    def over(self) -> bool:
        return self.state not in (JobState.QUEUED, JobState.RUNNING)

    def add(self, stage: Stage, payloads: list[list[str]]) -> None:
        first = 1 + max((seq for known, seq in self.units if known is stage), default=-1)
        for number, items in enumerate(payloads):
            self.units[stage, first + number] = MUnit(items)

    def drop_waiting(self) -> None:
        """Apply the immediate effects of a cancellation."""
        for unit in self.units.values():
            if unit.state is UnitState.READY:
                unit.state = UnitState.CANCELLED
        self.finish_if_complete()

    def finish_if_complete(self) -> None:
        states = [unit.state for unit in self.units.values()]
        if self.over or any(state in OPEN for state in states):
            return
        coarse_done = any(
            stage is Stage.COARSE and unit.state is UnitState.DONE for (stage, _), unit in self.units.items()
        )
        if coarse_done and not self.cancel and not any(stage is Stage.FINE for stage, _ in self.units):
            self.add(Stage.FINE, in_pairs(self.items))
            return
        self.endings += 1
        last = Stage.EMBED if self.kind == "index" else Stage.FINE
        some = any(stage is last and unit.state is UnitState.DONE for (stage, _), unit in self.units.items())
        if self.cancel:
            self.state = JobState.CANCELLED
        elif UnitState.DEAD not in states:
            self.state = JobState.SUCCEEDED
        else:
            self.state = JobState.PARTIAL if some else JobState.FAILED

    def give_up(self, key: tuple[Stage, int], *, permanent: bool, split: bool) -> None:
        """Apply a failed attempt: a retry, or the end of the unit."""
        unit = self.units[key]
        unit.holder = None
        if not permanent and unit.attempt < ATTEMPTS:
            unit.state = UnitState.READY
        elif split and len(unit.items) > 1:
            unit.state = UnitState.SPLIT
            self.add(key[0], [[item] for item in unit.items])
        else:
            unit.state = UnitState.DEAD
            self.finish_if_complete()


@dataclass
class MClaim:
    """A claim of a worker, valid or stale."""

    real: Claim
    job: MJob
    key: tuple[Stage, int]
    expired: bool = False


def in_pairs(items: list[str]) -> list[list[str]]:
    return [items[start : start + 2] for start in range(0, len(items), 2)]
