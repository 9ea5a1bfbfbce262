"""Label, icon and colour of every state: the only place where pages and charts get them from."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple, TypeVar

from retllm.db.enums import OVER_JOBS, AttemptOutcome, FileStatus, JobState, UnitState
from retllm.db.state_words import (
    ATTEMPT_OUTCOMES,
    JOB_STATES,
    PROBLEMS,
    TONES,
    UNIT_STATES,
    Tone,
    outcome_counts,
)
from retllm.db.state_words import FILE_STATUSES as FILE_WORDS
from retllm.history.file_counts import FileCounts
from retllm.operations.workers import WorkerStatus
from retllm_web.render.timeline import StepStatus

State = TypeVar("State", bound=StrEnum)


class Sign(NamedTuple):
    """How a state is shown; ``colour`` is the name of one of Bootstrap's."""

    label: str
    icon: str
    colour: str


COLOURS = {
    Tone.WAITING: "secondary",
    Tone.WORKING: "primary",
    Tone.GOOD: "success",
    Tone.MIXED: "warning",
    Tone.BAD: "danger",
    Tone.NEUTRAL: "secondary",
}
_ICONS = {
    Tone.WAITING: "hourglass",
    Tone.WORKING: "play-circle",
    Tone.GOOD: "check-circle",
    Tone.MIXED: "exclamation-circle",
    Tone.BAD: "x-circle",
    Tone.NEUTRAL: "slash-circle",
}


def _signs(words: Mapping[State, str], icons: Mapping[State, str] | None = None) -> dict[State, Sign]:
    """Return the signs of states; ``icons`` has those that are not the icon of their tone."""
    special = icons or {}
    return {
        state: Sign(word, special.get(state, _ICONS[TONES[state]]), COLOURS[TONES[state]])
        for state, word in words.items()
    }


STATES = _signs(JOB_STATES)
UNITS = _signs(UNIT_STATES, {UnitState.SPLIT: "scissors"})
OUTCOMES = _signs(
    ATTEMPT_OUTCOMES, {AttemptOutcome.LOST: "question-circle", AttemptOutcome.RETURNED: "arrow-return-left"}
)
FILE_STATUSES = _signs(
    FILE_WORDS,
    {
        FileStatus.ADDED: "plus-circle",
        FileStatus.UPDATED: "pencil",
        FileStatus.DUPLICATE: "files",
        FileStatus.READ: "journal-text",
        FileStatus.IGNORED: "eye-slash",
        FileStatus.UNPROCESSED: "slash-circle",
        FileStatus.NOT_SENT: "cloud-slash",
    },
)
STEPS = {
    StepStatus.NOT_STARTED: Sign(StepStatus.NOT_STARTED.value, "circle", COLOURS[Tone.WAITING]),
    StepStatus.NOT_REACHED: Sign(StepStatus.NOT_REACHED.value, "dash-circle", COLOURS[Tone.NEUTRAL]),
} | {
    # a step has the state of a job otherwise
    StepStatus[state.name]: sign._replace(icon=f"{sign.icon}-fill")
    for state, sign in STATES.items()
    if state is not JobState.QUEUED
}
WORKER_STATES = {
    status: Sign(status.value, icon, COLOURS[tone])
    for status, icon, tone in (
        (WorkerStatus.ALIVE, "heart-pulse", Tone.GOOD),
        (WorkerStatus.SILENT, "question-circle", Tone.BAD),
        (WorkerStatus.STOPPED, "stop-circle", Tone.NEUTRAL),
    )
}

LOG_LEVELS = {
    "debug": Sign("debug", "dot", COLOURS[Tone.NEUTRAL]),
    "info": Sign("info", "info-circle", COLOURS[Tone.NEUTRAL]),
    "warning": Sign("warning", "exclamation-triangle", COLOURS[Tone.MIXED]),
    "error": Sign("error", "x-circle", COLOURS[Tone.BAD]),
    "critical": Sign("critical", "x-octagon", COLOURS[Tone.BAD]),
}
"""The levels of log lines, from the least to the most serious."""


def state_words(state: JobState, files: FileCounts | None = None) -> str:
    """Return the state of a job; of an upload, also whether it waits for files, or which of them it does not have."""
    if files is None:
        return JOB_STATES[state]
    if files.open and state not in OVER_JOBS:
        return "open: waiting for files"
    problems = outcome_counts(files.counts, files.parts, PROBLEMS) if state in OVER_JOBS else ""
    return f"{JOB_STATES[state]}, {problems}" if problems else JOB_STATES[state]


def state_badge(state: JobState, files: FileCounts | None = None) -> Sign:
    """Return the sign of the state of a job; green is only what has no problems."""
    label = state_words(state, files)
    mixed = state is JobState.SUCCEEDED and label != JOB_STATES[state]
    return STATES[JobState.PARTIAL if mixed else state]._replace(label=label)
