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


def again_words(units: int, files: int) -> str:
    """Return what a retry does again, such as "Trying again: 1 file, 2 units."."""
    told = [
        f"{number:,} {word}{'' if number == 1 else 's'}"
        for number, word in ((files, "file"), (units, "unit"))
        if number
    ]
    return f"Trying again: {', '.join(told)}."


def rejected_words(rejected: int, not_sent: int) -> str:
    """Return what the state of an upload does not say: how many files were rejected, such as "3 rejected"."""
    if not rejected:
        return ""
    part = "" if not not_sent else " (not sent)" if not_sent == rejected else f" ({not_sent:,} not sent)"
    return f"{rejected:,} rejected{part}"
