"""How the command line shows things: tables and bars on a terminal, one JSON object for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from retllm.cli.client import Api, Json
from retllm.db.enums import JobState
from retllm.db.state_words import JOB_STATES

# a whole line in a file or a pipe is better than one broken at 80 columns
_PIPE_WIDTH = 160


def console(*, stderr: bool = False) -> Console:
    """Standard output or error; wide where it is no terminal."""
    made = Console(stderr=stderr, highlight=False)
    return made if made.is_terminal else Console(stderr=stderr, highlight=False, width=_PIPE_WIDTH)


def say(text: str) -> None:
    """A line for people, on standard error."""
    click.echo(text, err=True)


def as_json(value: Any) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(value, ensure_ascii=False))


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None) -> None:
    """A table on standard output; what is None stays empty."""
    if title is not None:
        click.echo(title)
    made = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        made.add_row(*("" if value is None else escape(str(value)) for value in row))
    console().print(made)


def number(value: float | None, decimals: int = 4) -> str | None:
    """A number with a fixed count of decimals."""
    return None if value is None else f"{value:.{decimals}f}"


def job_state(job: Json) -> str:
    """Return the word for the state of ``job``; a state that only a newer server knows stays as it is."""
    return str(JOB_STATES.get(job["state"], job["state"]))


def _reached(job: Json) -> tuple[str, int, int | None]:
    """The stage that a job is at, items done and items in all (None while it is not known)."""
    stage: Json = job["stages"][-1] if job["stages"] else {}
    names = {"embed": "indexing", "coarse": "coarse stage", "fine": "fine stage"}
    name = names.get(stage.get("stage", ""), JOB_STATES[JobState.QUEUED])
    done = int(stage.get("items_done", 0)) + int(stage.get("items_failed", 0))
    return name, done, int(stage.get("items_total", 0)) or None


def follow(api: Api, job_id: str, *, quiet: bool) -> Json:
    """Watch a job to its end with a bar on standard error; ``quiet`` shows nothing. Returns the job."""
    bar = Progress(
        TextColumn("{task.description:<13}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console(stderr=True),
        disable=quiet,
    )
    with bar:
        task = bar.add_task(JOB_STATES[JobState.QUEUED], total=None)

        def show(job: Json) -> None:
            name, done, total = _reached(job)
            bar.update(task, description=name, completed=done, total=total)

        job = api.watch(job_id, show)
    if not quiet:
        tell_errors(job)
    return job


def tell_errors(job: Json) -> None:
    """What went wrong in a job, on standard error."""
    errors = [(error["stage"], error["attempt"], error["error"]) for error in job["errors"]]
    for stage, attempt, error in errors:
        click.echo(f"{stage}, attempt {attempt}: {error}", err=True)
    if job["error"] and not errors:
        click.echo(job["error"], err=True)


def notice(shown: Json) -> None:
    """What to know of the models by which ``shown`` was or will be made, on standard error; mostly nothing."""
    if shown.get("notice"):
        click.secho(shown["notice"], fg="yellow", err=True)


def candidates(search: Json) -> None:
    """A search's candidates in their order, with what explains it."""
    notice(search)
    with_fused = search["fusion_weight"] > 0
    rows = [
        (
            row["rank"],
            row["coarse_rank"],
            number(row["score"]),
            *((number(row["fused"]),) if with_fused else ()),
            number(row["entropy"]),
            number(row["similarity"]),
            row["decided_by"],
            row["name"],
            row["error"] or row["text"],
        )
        for row in search["candidates"]
    ]
    title = "Provisional order" if search["provisional"] else None
    fused = ("fused",) if with_fused else ()
    table(("rank", "coarse", "score", *fused, "entropy", "similarity", "decided by", "item", ""), rows, title)
    _tell_sources(search["sources"])
    if search["no_match"]:
        click.echo("No good match: even the best candidate is more likely none than one.")


def _tell_sources(sources: Sequence[Json]) -> None:
    """Where the candidates come from, if that is more than the one embedder of every search."""
    if len(sources) > 1:
        used = [source["name"] for source in sources if source["found"] is not None]
        click.echo(f"Candidates from {', '.join(used)}." if used else "No source has answered yet.")
    for source in sources:
        if source["unused"]:
            click.echo(f"Without {source['name']}: {source['unused']}")
