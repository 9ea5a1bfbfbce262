"""How numbers and times are shown, and what templates use."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Flask
from markupsafe import Markup

from retllm.db.enums import OVER_JOBS, DecidedBy, FileStatus, ItemKind, JobKind, JobState, Role, Stage
from retllm.db.state_words import PROBLEMS, outcome_counts
from retllm.history.file_counts import FileCounts
from retllm.history.job_views import JobView
from retllm.history.same_errors import same_errors, shared_errors, without_name
from retllm.identity.members import MAX_COUNTED
from retllm.media.file_table import accepted
from retllm.media.sniffing import ACCEPTED_SENTENCE
from retllm.media.streams import size
from retllm.scorer_address import is_remote_name
from retllm.uploads.views import UploadState
from retllm_web.http.auth import current_actor
from retllm_web.http.services import services
from retllm_web.pages.blueprint import is_visit, item_url, picture_url
from retllm_web.pages.states import FILE_STATUSES, OUTCOMES, STATES, STEPS, UNITS, state_badge, state_words

KINDS = {
    ItemKind.IMAGE: ("picture", "pictures"),
    ItemKind.TEXT: ("text", "texts"),
    ItemKind.BOTH: ("captioned picture", "captioned pictures"),
}
#: smaller distances from 0 are shown as a power of ten
_LEAST_SHOWN = 1e-8
# characters of the name of a file above which its end stays together, and those of this end
_LONG_NAME, _TAIL = 28, 12
_DASH = "–"
NOTHING = Markup('<span class="nothing">–</span>')
"""A cell of a table without a value, which is left out on a phone."""
STAGES = {
    Stage.MEDIA: "Files or pictures processed",
    Stage.EMBED: "Items embedded",
    Stage.COARSE: "Coarse stage: nearest items",
    Stage.FINE: "Fine stage: candidates scored",
}
JOB_KINDS = {
    JobKind.UPLOAD: "Upload",
    JobKind.INDEX: "Index",
    JobKind.SEARCH: "Search",
    JobKind.DUPLICATES: "Near-duplicates",
    JobKind.MAP: "Map",
    JobKind.OCR: "Text in pictures",
}
JOB_TITLES = {**JOB_KINDS, JobKind.INDEX: "Index job"}
DECIDED = {
    DecidedBy.SCORE: ("score", "No other candidate has this score."),
    DecidedBy.ENTROPY: ("entropy", "Scores tie; the candidate with the lower entropy ranks first."),
    DecidedBy.COARSE: ("coarse rank", "Score and entropy tie, or there is no score; the coarse rank decides."),
}

LARGE = 8 << 20
"""The script of the pages sends files with more bytes in parts of this size."""
_MAX_QUEUED_SECONDS = 20
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def ago(moment: datetime, now: datetime | None = None) -> str:
    """Return the age of a moment in one unit, such as "3 days ago"."""
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    if seconds < 10:
        return "just now"
    for span, name in ((_DAY, "day"), (_HOUR, "hour"), (_MINUTE, "minute"), (1, "second")):
        if seconds >= span:
            count = int(seconds // span)
            return f"{count} {name}{'' if count == 1 else 's'} ago"
    return "just now"


def more_time(moment: datetime, now: datetime | None = None) -> str:
    """Return the time until a moment in one unit, such as "3 more minutes"."""
    seconds = max(0.0, (moment - (now or datetime.now(UTC))).total_seconds())
    units = ((_HOUR, "hour"), (_MINUTE, "minute"), (1, "second"))
    # one of the smaller unit is told more closely, such as 90 minutes
    span, name = next((unit for unit in units if seconds >= 2 * unit[0]), units[-1])
    count = int(seconds // span)
    return f"{count} more {name}{'' if count == 1 else 's'}"


def seconds(value: float | None) -> str:
    """Return a duration with two or three digits."""
    if value is None:
        return _DASH
    if value < _MINUTE:
        return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"
    minutes, rest = divmod(round(value), _MINUTE)
    return f"{minutes} min {rest} s" if minutes < _MINUTE else f"{minutes // _MINUTE} h {minutes % _MINUTE} min"


def kind_counts(items: Mapping[ItemKind, int]) -> str:
    """Return how many items are of which kind: "60 pictures, 20 with a caption; 3 texts"."""
    captioned, texts = items.get(ItemKind.BOTH, 0), items.get(ItemKind.TEXT, 0)
    pictures = items.get(ItemKind.IMAGE, 0) + captioned
    told = f"{pictures:,} {kind(ItemKind.IMAGE, pictures)}"
    if captioned:
        told += " with a caption" if captioned == pictures == 1 else f", {captioned:,} with a caption"
    parts = [told] if pictures else []
    if texts:
        parts.append(f"{texts:,} {kind(ItemKind.TEXT, texts)}")
    return "; ".join(parts)


def kind(value: ItemKind | str, number: int = 1) -> str:
    """Return the name of a kind of items, singular or plural."""
    singular, plural = KINDS[ItemKind(value)]
    return singular if number == 1 else plural


def items(number: int) -> str:
    """Return a number of items as text."""
    return f"{number:,} item" if number == 1 else f"{number:,} items"


def percent(share: float) -> str:
    """Return a share as percent, rounded down, so that only 1 gives 100 %."""
    return f"{int(share * 100 + 1e-9)} %"


def figure(value: float | None, decimals: int = 4) -> str:
    """Return a number with a fixed number of decimals; a dash for None."""
    return _DASH if value is None else f"{value:.{decimals}f}"


def score_figure(score: float | None) -> str:
    """Return a score with four decimals, or with as many as tell it from 0 and 1 by two digits; a dash for None."""
    if score is None:
        return _DASH
    rest = min(abs(score), abs(1 - score))
    if rest < _LEAST_SHOWN:
        return f"{score:.1e}" if 0 < score < _LEAST_SHOWN else f"{score:.4f}"
    return f"{score:.{max(4, 1 - math.floor(math.log10(rest)))}f}"


def probability(log_odds: float) -> str:
    """Return the score that log-odds mean, with two digits that tell it from 0 and 1."""
    score = 1 / (1 + math.exp(-max(log_odds, -700)))
    return f"{score:.2g}" if score < 0.99 else f"{score:.5f}"


def cell(value: Any) -> Any:
    """Return what a cell of a table shows: a value, or ``NOTHING`` without one."""
    return NOTHING if value in (None, "", _DASH) else value


def file_counts(files: FileCounts | UploadState) -> str:
    """Return how often an upload has which outcome, as a sentence; nothing if it has none."""
    told = outcome_counts(files.counts, files.parts)
    return f"{told}." if told else ""


def rejections(files: FileCounts) -> str:
    """Return how many files of an upload, or rows of it, were rejected, as the end of a sentence."""
    return f"{outcome_counts(files.counts, files.parts, [FileStatus.REJECTED])}."


def arrived_files(files: FileCounts) -> str:
    """Return how many files of an open upload arrived, such as "12 of 60 files arrived"."""
    if files.expected:
        word = "file" if files.expected == 1 else "files"
        return f"{files.expected - files.to_come:,} of {files.expected:,} {word} arrived"
    return "" if files.counts else "no files arrived yet"


def waits_too_long(job: JobView) -> bool:
    """Return whether a job has been queued for so long that probably no worker runs; nobody works without a file."""
    if job.files is not None and job.files.open and not job.stages:
        return False
    waited = (datetime.now(UTC) - job.created_at).total_seconds()
    return job.state is JobState.QUEUED and not job.cancel_requested and waited > _MAX_QUEUED_SECONDS


def navigation() -> list[tuple[str, str]]:
    """Return endpoint and label of each menu entry that this account may open."""
    shown = [
        ("pages.overview", "Overview"),
        ("pages.search_page", "Search"),
        ("pages.collections", "Collections"),
        ("pages.jobs", "History"),
        ("pages.quality", "Quality"),
        ("pages.system", "Workers"),
    ]
    return [*shown, ("pages.people", "People")] if current_actor().role is Role.ADMIN else shown


def days(number: float) -> str:
    """Return a number of days as text, such as "30 days"."""
    return "1 day" if number == 1 else f"{number:g} days"


def days_left(moment: datetime, now: datetime | None = None) -> str:
    """Return the time until a moment in days, also the begun one, such as "12 days left"."""
    left = (moment - (now or datetime.now(UTC))) / timedelta(days=1)
    return f"{days(max(1, math.ceil(left)))} left"


def trash_days() -> str:
    """Return for how long deleted items can be restored, such as "30 days"; empty if there is no trash."""
    kept = services().settings.trash_days
    return days(kept) if kept else ""


def halves(name: str) -> tuple[str, str]:
    """Return a name in two parts; a narrow place cuts the first one at its end, which is empty of a short name."""
    at = max(0, len(name) - _TAIL) if len(name) > _LONG_NAME else 0
    # a letter keeps its accents and what is joined to it
    while 0 < at < len(name) and unicodedata.category(name[at]) in ("Mn", "Me", "Mc", "Cf", "Sk"):
        at -= 1
    return name[:at], name[at:]


def over(state: JobState) -> bool:
    """Return whether a job is over."""
    return state in OVER_JOBS


def install(app: Flask) -> None:
    """Register the filters and globals of the templates."""
    app.jinja_env.filters.update(
        ago=ago,
        more_time=more_time,
        days_left=days_left,
        seconds=seconds,
        filesize=size,
        kind_name=kind,
        kind_counts=kind_counts,
        item_count=items,
        percent=percent,
        figure=figure,
        score_figure=score_figure,
        probability=probability,
        cell=cell,
        is_over=over,
        on_server=is_remote_name,
        waits_too_long=waits_too_long,
        same_errors=lambda errors: same_errors([error.model_dump() for error in errors]),
        without_name=lambda error, about: without_name(error or "", [one.name for one in about]),
        shared_errors=lambda candidates: shared_errors(candidate.error for candidate in candidates),
        file_counts=file_counts,
        rejections=rejections,
        outcome_counts=outcome_counts,
        arrived_files=arrived_files,
        halves=halves,
    )
    tables: dict[str, Any] = {
        "STATES": STATES,
        "state_words": state_words,
        "state_badge": state_badge,
        "UNITS": UNITS,
        "OUTCOMES": OUTCOMES,
        "STEPS": STEPS,
        "STAGES": STAGES,
        "JOB_KINDS": JOB_KINDS,
        "JOB_TITLES": JOB_TITLES,
        "DECIDED": DECIDED,
        "FILE_STATUSES": FILE_STATUSES,
        "PROBLEMS": PROBLEMS,
        "ItemKind": ItemKind,
        "JobKind": JobKind,
        "JobState": JobState,
        "NOTHING": NOTHING,
        "picture_url": picture_url,
        "item_url": item_url,
        "is_visit": is_visit,
        "account_of_request": current_actor,
        "navigation": navigation,
        "trash_days": trash_days,
        "max_members": MAX_COUNTED,
        "ACCEPTED": accepted(),
        "ACCEPTED_KINDS": f" {ACCEPTED_SENTENCE}",
        "LARGE": LARGE,
    }
    app.jinja_env.globals.update(tables)
    app.jinja_env.trim_blocks = True
    app.jinja_env.lstrip_blocks = True
