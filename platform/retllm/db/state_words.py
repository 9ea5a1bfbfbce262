"""The words for states, as docs/glossary.md has them; pages, charts and the command line show no others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

from retllm.db.enums import AttemptOutcome, FileStatus, JobState, UnitState

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

FILE_STATUSES = {
    FileStatus.ADDED: "added",
    FileStatus.UPDATED: "updated",
    FileStatus.DUPLICATE: "duplicate",
    FileStatus.READ: "read",
    FileStatus.IGNORED: "ignored",
    FileStatus.WAITING: "waiting",
    FileStatus.REJECTED: "rejected",
    FileStatus.UNPROCESSED: "not processed",
    FileStatus.NOT_SENT: "not sent",
}
"""In the order in which they are counted."""


class Tone(StrEnum):
    """What a state means to people; pages, charts and the command line have one colour for each tone."""

    WAITING = "waiting"  # it has not begun
    WORKING = "working"  # it goes on
    GOOD = "good"  # it ended, and all is there
    MIXED = "mixed"  # a part of it failed
    BAD = "bad"  # it failed, or is missing
    NEUTRAL = "neutral"  # it ended without a result, and nothing failed


TONES: Mapping[str, Tone] = {
    JobState.QUEUED: Tone.WAITING,
    JobState.RUNNING: Tone.WORKING,
    JobState.SUCCEEDED: Tone.GOOD,
    JobState.PARTIAL: Tone.MIXED,
    JobState.FAILED: Tone.BAD,
    JobState.CANCELLED: Tone.NEUTRAL,
    UnitState.READY: Tone.WAITING,
    UnitState.LEASED: Tone.WORKING,
    UnitState.DONE: Tone.GOOD,
    UnitState.DEAD: Tone.BAD,
    UnitState.SPLIT: Tone.MIXED,
    AttemptOutcome.COMMITTED: Tone.GOOD,
    AttemptOutcome.LOST: Tone.BAD,
    AttemptOutcome.RETURNED: Tone.NEUTRAL,
    FileStatus.ADDED: Tone.GOOD,
    FileStatus.UPDATED: Tone.GOOD,
    FileStatus.DUPLICATE: Tone.NEUTRAL,
    FileStatus.READ: Tone.NEUTRAL,
    FileStatus.IGNORED: Tone.NEUTRAL,
    FileStatus.WAITING: Tone.WAITING,
    FileStatus.REJECTED: Tone.BAD,
    FileStatus.UNPROCESSED: Tone.BAD,
    FileStatus.NOT_SENT: Tone.BAD,
}
"""The tone of every state. States of several enums with the same value, such as ``cancelled``, have the same."""

PROBLEMS = (FileStatus.REJECTED, FileStatus.UNPROCESSED, FileStatus.NOT_SENT)
"""Outcomes of what is not in the collection, although somebody wanted it there."""
_COUNTED = tuple(status for status in FILE_STATUSES if status is not FileStatus.READ)


def outcome_counts(
    counts: Mapping[FileStatus, int],
    parts: Mapping[FileStatus, Mapping[str, int]],
    statuses: Iterable[FileStatus] = _COUNTED,
) -> str:
    """Return how often an upload has which outcome, such as "3 added, 1 not sent"; nothing if it has none.

    A sheet or an archive that was read is not counted beside its rows or entries.

    Args:
        parts: how many of these are no files, by what they are: "12 not sent (2 files, 10 rows)", "10 rows not sent".
    """
    return ", ".join(
        _counted(counts[status], parts.get(status, {}), FILE_STATUSES[status])
        for status in statuses
        if counts.get(status)
    )


def _counted(count: int, parts: Mapping[str, int], outcome: str) -> str:
    """Return how often there is an outcome, and of what, if not only of files."""
    numbers = {"file": count - sum(parts.values()), **parts}
    told = [f"{number:,} {_plural(word, number)}" for word, number in numbers.items() if number]
    if not parts:
        return f"{count:,} {outcome}"
    return f"{told[0]} {outcome}" if len(told) == 1 else f"{count:,} {outcome} ({', '.join(told)})"


def again_words(units: int, files: int, read_again: int, not_kept: int = 0) -> str:
    """Return what a retry does again, such as "Trying again: 1 file."; of an upload that needs no files, the units.

    Rejected files that are not kept are named too, as they have to be sent again.
    """
    parts = (
        (files, "file"),
        (read_again, "sheet or document with rows or pages left out|sheets or documents with rows or pages left out"),
        (0 if files or read_again else units, "unit"),
    )
    told = [f"{number:,} {_plural(words, number)}" for number, words in parts if number]
    again = f"Trying again: {', '.join(told)}." if told else "Nothing was left to try again."
    if not not_kept:
        return again
    what = _plural("file is not kept: send it|files are not kept: send them", not_kept)
    return f"{again} {not_kept:,} rejected {what} again."


def _plural(words: str, number: int) -> str:
    one, _, several = words.partition("|")
    return one if number == 1 else several or f"{one}s"
