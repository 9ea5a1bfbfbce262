"""How numbers, times and states are shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from flask import Flask

from retllm.db.enums import OVER_JOBS, AttemptOutcome, DecidedBy, ItemKind, JobKind, JobState, Role, Stage, UnitState
from retllm.db.state_words import ATTEMPT_OUTCOMES, JOB_STATES, UNIT_STATES
from retllm.history.job_views import JobView, UnitError
from retllm.media.ingest import FileOutcome
from retllm_web.http.auth import current_actor
from retllm_web.pages.blueprint import picture_url

KINDS = {
    ItemKind.IMAGE: ("picture", "pictures"),
    ItemKind.TEXT: ("text", "texts"),
    ItemKind.BOTH: ("captioned picture", "captioned pictures"),
}
# label, icon, Bootstrap's colour
STATES = {
    state: (JOB_STATES[state], icon, colour)
    for state, icon, colour in (
        (JobState.QUEUED, "hourglass", "secondary"),
        (JobState.RUNNING, "play-circle", "primary"),
        (JobState.SUCCEEDED, "check-circle", "success"),
        (JobState.PARTIAL, "exclamation-circle", "warning"),
        (JobState.FAILED, "x-circle", "danger"),
        (JobState.CANCELLED, "slash-circle", "secondary"),
    )
}
UNITS = {
    state: (UNIT_STATES[state], icon, colour)
    for state, icon, colour in (
        (UnitState.READY, "hourglass", "secondary"),
        (UnitState.LEASED, "play-circle", "primary"),
        (UnitState.DONE, "check-circle", "success"),
        (UnitState.DEAD, "x-circle", "danger"),
        (UnitState.SPLIT, "scissors", "warning"),
        (UnitState.CANCELLED, "slash-circle", "secondary"),
    )
}
# label, icon
OUTCOMES = {
    outcome: (ATTEMPT_OUTCOMES[outcome], icon)
    for outcome, icon in (
        (AttemptOutcome.COMMITTED, "check-circle"),
        (AttemptOutcome.FAILED, "x-circle"),
        (AttemptOutcome.LOST, "question-circle"),
        (AttemptOutcome.RETURNED, "arrow-return-left"),
        (AttemptOutcome.CANCELLED, "slash-circle"),
    )
}
STAGES = {
    Stage.EMBED: "Items embedded",
    Stage.COARSE: "Coarse stage: nearest items",
    Stage.FINE: "Fine stage: candidates scored",
}
JOB_KINDS = {JobKind.INDEX: "Index", JobKind.SEARCH: "Search"}
DECIDED = {
    DecidedBy.SCORE: ("score", "No other candidate has this score."),
    DecidedBy.ENTROPY: ("entropy", "Scores tie; the one with the lower entropy, so the surer one, goes first."),
    DecidedBy.COARSE: ("coarse order", "Score and entropy tie, or there is no score: the coarse stage decides."),
}

# seconds
_PATIENCE = 20
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def ago(moment: datetime, now: datetime | None = None) -> str:
    """How long ago something was, in one unit."""
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    if seconds < 10:
        return "just now"
    for size, name in ((_DAY, "day"), (_HOUR, "hour"), (_MINUTE, "minute"), (1, "second")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {name}{'' if count == 1 else 's'} ago"
    return "just now"


def seconds(value: float | None) -> str:
    """A duration in two or three figures."""
    if value is None:
        return "–"
    if value < _MINUTE:
        return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"
    minutes, rest = divmod(round(value), _MINUTE)
    return f"{minutes} min {rest} s" if minutes < _MINUTE else f"{minutes // _MINUTE} h {minutes % _MINUTE} min"


def size(count: int) -> str:
    """Bytes in the unit that people read."""
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{int(value)} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"


def kind(value: ItemKind | str, number: int = 1) -> str:
    """The name of a kind of items, in the singular or plural."""
    one, many = KINDS[ItemKind(value)]
    return one if number == 1 else many


def items(number: int) -> str:
    """A number of items."""
    return f"{number:,} item" if number == 1 else f"{number:,} items"


def percent(share: float) -> str:
    """A share as percent, rounded down: all of it only when it is all."""
    return f"{int(share * 100 + 1e-9)} %"


def figure(value: float | None, decimals: int = 4) -> str:
    """A number with so many decimals; a dash for none."""
    return "–" if value is None else f"{value:.{decimals}f}"


def same_errors(errors: Sequence[UnitError]) -> list[dict[str, Any]]:
    """Errors of units, those that say the same told once with their number."""
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for one in errors:
        key = (one.stage, one.state is UnitState.DEAD, one.attempt, one.error)
        group = groups.setdefault(key, one.model_dump() | {"count": 0})
        group["count"] += 1
    return list(groups.values())


def rejected_first(outcomes: Sequence[FileOutcome]) -> list[FileOutcome]:
    """Outcomes with those first that need a person."""
    return sorted(outcomes, key=lambda one: one.status != "rejected")


def outcome_counts(outcomes: Sequence[FileOutcome]) -> str:
    """How many of the files came in, and how many did not."""
    counts: Counter[str] = Counter(one.status for one in outcomes)
    order = ("added", "updated", "duplicate", "rejected")
    return ", ".join(f"{counts[status]} {status}" for status in order if counts[status]) + "."


def neglected(job: JobView) -> bool:
    """Whether a job waits longer than a worker that runs would let it."""
    waited = (datetime.now(UTC) - job.created_at).total_seconds()
    return job.state is JobState.QUEUED and not job.cancel_requested and waited > _PATIENCE


def navigation() -> list[tuple[str, str]]:
    """The pages of the menu that this account may open: endpoint and label."""
    shown = [
        ("pages.overview", "Overview"),
        ("pages.search_page", "Search"),
        ("pages.collections", "Collections"),
        ("pages.jobs", "History"),
        ("pages.quality", "Quality"),
        ("pages.system", "Workers"),
    ]
    return [*shown, ("pages.people", "People")] if current_actor().role is Role.ADMIN else shown


def over(state: JobState) -> bool:
    """Whether nothing more happens to a job by itself."""
    return state in OVER_JOBS


def install(app: Flask) -> None:
    """Give templates these formats."""
    app.jinja_env.filters.update(
        ago=ago,
        seconds=seconds,
        filesize=size,
        kind_name=kind,
        item_count=items,
        percent=percent,
        figure=figure,
        is_over=over,
        is_neglected=neglected,
        same_errors=same_errors,
        rejected_first=rejected_first,
        outcome_counts=outcome_counts,
    )
    tables: dict[str, Any] = {
        "STATES": STATES,
        "UNITS": UNITS,
        "OUTCOMES": OUTCOMES,
        "STAGES": STAGES,
        "JOB_KINDS": JOB_KINDS,
        "DECIDED": DECIDED,
        "ItemKind": ItemKind,
        "JobKind": JobKind,
        "JobState": JobState,
        "picture_url": picture_url,
        "account_of_request": current_actor,
        "navigation": navigation,
    }
    app.jinja_env.globals.update(tables)
    app.jinja_env.trim_blocks = True
    app.jinja_env.lstrip_blocks = True
