"""The words for states, as docs/glossary.md has them; pages, charts and the command line show no others."""

from __future__ import annotations

from retllm.db.enums import AttemptOutcome, JobState, UnitState

JOB_STATES = {
    JobState.QUEUED: "queued",
    JobState.RUNNING: "running",
    JobState.SUCCEEDED: "succeeded",
    JobState.PARTIAL: "partially succeeded",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "cancelled",
}
UNIT_STATES = {
    UnitState.READY: "ready",
    UnitState.LEASED: "leased",
    UnitState.DONE: "done",
    UnitState.DEAD: "dead",
    UnitState.SPLIT: "split",
    UnitState.CANCELLED: "cancelled",
}
ATTEMPT_OUTCOMES = {
    AttemptOutcome.COMMITTED: "committed",
    AttemptOutcome.FAILED: "failed",
    AttemptOutcome.LOST: "lost",
    AttemptOutcome.RETURNED: "returned",
    AttemptOutcome.CANCELLED: "cancelled",
}
