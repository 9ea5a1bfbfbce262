"""Output of the command line: tables and progress bars for people, JSON for programs."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from retllm.cli.client import Api, Json
from retllm.cli.sending import Sent
from retllm.db.enums import JobKind, JobState, UnitState
from retllm.db.state_words import JOB_STATES, PROBLEMS, TONES, Tone, outcome_counts
from retllm.history.same_errors import names_and_more, same_errors, shared_errors
from retllm.media import outcomes
from retllm.media.streams import size

# avoids line breaks at 80 columns in files and pipes
_PIPE_WIDTH = 160


def console(*, stderr: bool = False) -> Console:
    """Return a console on standard output or error; wide if that is not a terminal."""
    terminal = Console(stderr=stderr, highlight=False)
    return terminal if terminal.is_terminal else Console(stderr=stderr, highlight=False, width=_PIPE_WIDTH)


def say(text: str) -> None:
    """Print a line on standard error."""
    click.echo(text, err=True)


def as_json(value: Any) -> None:
    """Print one JSON document on standard output."""
    click.echo(json.dumps(value, ensure_ascii=False))


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None) -> None:
    """Print a table on standard output; None becomes an empty cell."""
    if title is not None:
        click.echo(title)
    content = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        content.add_row(*("" if value is None else escape(str(value)) for value in row))
    console().print(content)


def number(value: float | None, decimals: int = 4) -> str | None:
    """Format a number with a fixed number of decimals."""
    return None if value is None else f"{value:.{decimals}f}"


def job_state(job: Json) -> str:
    """Return the word for the state of ``job``; a state that only a newer server knows stays as it is."""
    return str(JOB_STATES.get(job["state"], job["state"]))


def job_result(job: Json) -> str:
    """Return the word for the state of ``job``, whether it waits, and the problems among the outcomes of an upload."""
    files = job.get("files") or {"counts": {}}
    waits = "waits for a server" if any(error["waits"] for error in job["errors"]) else ""
    return ", ".join(
        filter(None, [job_state(job), waits, outcome_counts(files["counts"], files.get("parts", {}), PROBLEMS)])
    )


def _progress(job: Json) -> tuple[str, int, int | None]:
    """Return the current stage of a job, the processed items and the total (None if unknown)."""
    if (build := job.get("index_build")) is not None:
        return "index", round(100 * build), 100
    stage: Json = job["stages"][-1] if job["stages"] else {}
    media = {JobKind.DUPLICATES: "comparing", JobKind.MAP: "laying out", JobKind.OCR: "reading text"}.get(
        job["kind"], "reading files"
    )
    names = {"media": media, "embed": "indexing", "coarse": "coarse stage", "fine": "fine stage"}
    name = names.get(stage.get("stage", ""), JOB_STATES[JobState.QUEUED])
    done = int(stage.get("items_done", 0)) + int(stage.get("items_failed", 0))
    return name, done, int(stage.get("items_total", 0)) or None


_BUILDING = (
    "The database builds the vector index of this collection. "
    "Until it is ready, searches compare the query with every vector that is not in an index yet."
)
# of a full bar
_STYLES = {Tone.GOOD: "bar.finished", Tone.MIXED: "yellow", Tone.BAD: "red"}


class _Bar(BarColumn):
    """A bar that is full in the colour of the state of its job, if the task says it."""

    def render(self, task: Task) -> ProgressBar:
        bar = super().render(task)
        bar.finished_style = task.fields.get("full_style", bar.finished_style)
        return bar


class _Amount(MofNCompleteColumn):
    """How much of a task is done: of what, if the task says it; nothing if there was nothing to do."""

    def render(self, task: Task) -> Text:
        amount = "" if task.total == 0 else super().render(task).plain
        return Text(task.fields.get("amount", amount), style="progress.download")


class _TimeLeft(TimeRemainingColumn):
    """An estimate of the time that is left, of tasks that say their amount."""

    def render(self, task: Task) -> Text:
        shown = "amount" in task.fields and not task.finished and task.time_remaining is not None
        return super().render(task).append(" left") if shown else Text("")


def sent(bar: Progress, task: TaskID, how_far: Sent) -> None:
    """Show how far an upload is."""
    done, total = how_far.bytes + how_far.under_way, how_far.of_bytes
    in_bytes = f", {size(min(done, total))} of {size(total)}" if total else ""
    amount = f"{how_far.files:,}/{how_far.of_files:,} files{in_bytes}"
    # empty files have no bytes, but are to be sent
    whole = total or int(how_far.files < how_far.of_files)
    bar.update(task, completed=min(done, total), total=whole, amount=amount)


def progress(*, quiet: bool) -> Progress:
    """Return a progress display on standard error, which shows nothing if ``quiet``."""
    return Progress(
        TextColumn("{task.description:<13}"),
        _Bar(),
        _Amount(),
        TimeElapsedColumn(),
        _TimeLeft(),
        console=console(stderr=True),
        disable=quiet,
    )


def follow(api: Api, job_id: str, *, quiet: bool) -> Json:
    """Watch a job until it is over, with a bar on standard error unless ``quiet``; return the job."""
    with progress(quiet=quiet) as bar:
        job = watch(api, job_id, bar, bar.add_task(JOB_STATES[JobState.QUEUED], total=None))
    if not quiet:
        errors(job)
    return job


def watch(api: Api, job_id: str, bar: Progress, task: TaskID) -> Json:
    """Watch a job until it is over, and show how far it is and what it waits for; return the job."""
    shown: set[str] = set()

    def show(job: Json) -> None:
        for error in same_errors([error for error in job["errors"] if error["waits"]]):
            if error["error"] not in shown and not bar.disable:
                say(f"Waiting{_until(error)}: {error['error']}")
            shown.add(error["error"])
        for pause in job.get("pauses", ()):
            sentence = _paused(pause)
            if sentence not in shown and not bar.disable:
                say(sentence)
            shown.add(sentence)
        name, done, total = _progress(job)
        bar.update(task, description=name, completed=done, total=total)
        if job.get("index_build") is not None and _BUILDING not in shown and not bar.disable:
            say(_BUILDING)
            shown.add(_BUILDING)

    job = api.watch(job_id, show)
    bar.update(task, full_style=_STYLES.get(TONES.get(job["state"], Tone.NEUTRAL), "bright_black"))
    if job["state"] == JobState.CANCELLED:
        bar.update(task, description=job_state(job))
    elif not any(stage["items_total"] for stage in job["stages"]) and job["kind"] != JobKind.SEARCH:
        # there was nothing to do
        bar.update(task, description=job_state(job), completed=0, total=0)
    return job


def _paused(pause: Json) -> str:
    who, why = pause["by"] or "A deleted account", f": {pause['reason']}" if pause["reason"] else ""
    return f"{who} paused the queue {pause['queue']}{why}. The job goes on when it is resumed."


def errors(job: Json) -> None:
    """Print the errors of a job on standard error."""
    for error in same_errors(job["errors"]):
        names = names_and_more([one["name"] for one in error["about"]], error["items"])
        about = f"{names}: " if names and not error["waits"] else ""
        click.echo(f"{error['stage']} stage, {error['units']} {_fate(error)}: {about}{error['error']}", err=True)
    if job["error"] and not job["errors"]:
        click.echo(job["error"], err=True)


def _fate(error: Json) -> str:
    """Return what the units of an error do: they wait for a server, are dead, or are tried again."""
    if error["waits"]:
        return ("waits" if error["count"] == 1 else "wait") + _until(error)
    failed = error["attempt"] - (error["state"] == UnitState.LEASED)
    times = f"{failed} {'attempt' if failed == 1 else 'attempts'}"
    return f"failed after {times}" if error["state"] == UnitState.DEAD else f"failed in {times} and will be tried again"


def _until(error: Json) -> str:
    """Return until when the units of an error wait; a server of an older release does not tell."""
    until = error.get("waits_until")
    return f" until {datetime.fromisoformat(until).astimezone(UTC):%Y-%m-%d %H:%M} UTC at most" if until else ""


def place(file: Json) -> str:
    """Return the name of a file of an upload with the archive or sheet that it is in."""
    within = outcomes.place(file["name"], file["within"])
    return file["name"] if within is None else f"{file['name']} in {within}"


def outcome(file: Json) -> str:
    """Return what became of a file of an upload in one line: its place, the item that it is or changed, the reason."""
    same = {"duplicate": "the same as ", "updated": "caption of "}.get(file["status"])
    error = file["error"]["message"] if file["error"] else None
    told = [error, same + file["item_name"] if same and file["item_name"] else None, file["remark"]]
    return ": ".join(filter(None, [place(file), "; ".join(filter(None, told))]))


def notice(source: Json) -> None:
    """Print the notice on the models of a collection or search, if any, on standard error."""
    if source.get("notice"):
        click.secho(source["notice"], fg="yellow", err=True)


def _names(candidates: Sequence[Json]) -> list[str]:
    """Return the names of candidates; those that others have too with the archives that the items came in."""
    times = Counter(row["name"] for row in candidates)
    return [
        f"{row['name']} in {row['archive']}" if times[row["name"]] > 1 and row.get("archive") else row["name"]
        for row in candidates
    ]


# of a text in a table; the whole one is in the item
_TEXT_CHARS = 120
_OVER = frozenset({JobState.SUCCEEDED, JobState.PARTIAL, JobState.FAILED, JobState.CANCELLED})


def candidates(search: Json) -> None:
    """Print the candidates of a search in their order, with ranks and scores."""
    notice(search)
    names = _names(search["candidates"])
    shared = shared_errors(row["error"] for row in search["candidates"])
    with_fused = search["fusion_weight"] > 0
    of_several = search["job"].get("collection_id", "") is None
    rows = [
        (
            row["rank"],
            row["coarse_rank"],
            number(row["score"]),
            *((number(row["fused"]),) if with_fused else ()),
            number(row["entropy"]),
            number(row["similarity"]),
            row["decided_by"],
            name,
            *((row["collection_name"],) if of_several else ()),
            "not scored"
            if row["error"] in shared
            else row["error"] or textwrap.shorten(row["text"] or "", _TEXT_CHARS, placeholder=" …"),
        )
        for name, row in zip(names, search["candidates"], strict=True)
    ]
    title = None
    if search["provisional"]:
        title = "Unfinished order" if search["job"]["state"] in _OVER else "Provisional order"
    fused = ("fused",) if with_fused else ()
    collection = ("collection",) if of_several else ()
    columns = ("rank", "coarse", "score", *fused, "entropy", "similarity", "decided by", "item", *collection, "")
    if rows:
        table(columns, rows, title)
    else:
        click.echo(_nothing_found(search))
    if of_several and search["hidden_collections"]:
        hidden = search["hidden_collections"]
        what = (
            "1 collection that was deleted or is" if hidden == 1 else f"{hidden} collections that were deleted or are"
        )
        click.echo(f"Left out: items of {what} not shared with you.")
    for name, row in zip(names, search["candidates"], strict=True):
        if row.get("remark"):
            click.echo(f"{name}: {row['remark']}")
    for error, count in shared.items():
        click.echo(f"{count} candidates were not scored: {error}")
    _print_sources(search["sources"])
    if names and not search["provisional"] and all(row["score"] is None for row in search["candidates"]):
        click.echo("Not judged: the scorer judged no candidate, and the order is that of the coarse stage alone.")
    if search["no_match"]:
        click.echo("No good match: even the best score lies below those that matches have in this collection.")


def _nothing_found(search: Json) -> str:
    """Return why a search has no candidates, in the words of its page."""
    if (state := search["job"]["state"]) not in _OVER:
        return "Candidates appear here as soon as the coarse stage finds them."
    if state != JobState.SUCCEEDED:
        return "The job ended before any candidate was found."
    among = " that matches the filter" if search.get("filter") else ""
    return f"No results: no item of the requested kinds{among} is indexed."


def _print_sources(sources: Sequence[Json]) -> None:
    """Print the sources of the candidates if there are several, and why a source is unused."""
    if len(sources) > 1:
        used = [source["name"] for source in sources if source["found"] is not None]
        click.echo(f"Candidates from {', '.join(used)}." if used else "No source has answered yet.")
    for source in sources:
        if source["unused"]:
            click.echo(f"Without {source['name']}: {source['unused']}")
