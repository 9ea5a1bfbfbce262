"""``retllm jobs``: list, show, watch, cancel, retry, delete and export jobs."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, BinaryIO, TypeVar
from uuid import UUID

import click

from retllm.cli import show
from retllm.cli.client import Api, Json, connect, json_option
from retllm.cli.patience import PATIENCE, Patience, PatientApi
from retllm.db.enums import FileStatus, JobKind, JobState
from retllm.db.state_words import FILE_STATUSES, PROBLEMS, again_words, outcome_counts

Command = TypeVar("Command", bound=Callable[..., Any])
SHOWN_FILES = 20
"""Files of an upload that are listed because they were rejected or not sent."""


def _filters(command: Command) -> Command:
    """Add the options that filter jobs."""
    day = click.DateTime(["%Y-%m-%d"])
    states = click.Choice([state.value for state in JobState])
    options = [
        click.option("--state", multiple=True, type=states, help="Only jobs in this state; repeatable."),
        click.option("--kind", type=click.Choice([kind.value for kind in JobKind]), help="Only jobs of this kind."),
        click.option("--collection", help="Only jobs on this collection (name or id)."),
        click.option("--person", help="Only jobs of this account."),
        click.option("--since", type=day, help="Only jobs of this day (UTC) or later."),
        click.option("--until", type=day, help="Only jobs of this day (UTC) or earlier."),
        click.option("--text", help="Only searches whose text contains this."),
        click.option(
            "--outcome",
            multiple=True,
            type=click.Choice([status.value for status in FileStatus]),
            help="Only uploads of which a file or row has this outcome; repeatable.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _query(api: Api, collection: str | None, **filters: Any) -> Json:
    """Return the filters as query parameters of the API."""
    query = {name: f"{value:%Y-%m-%d}" if isinstance(value, datetime) else value for name, value in filters.items()}
    return query | {"collection": api.collection(collection)["id"] if collection else None}


@click.group(invoke_without_command=True)
@_filters
@click.option(
    "--limit", type=click.IntRange(1, 100), default=20, show_default=True, help="Maximum number, newest first."
)
@json_option
@click.pass_context
def jobs(ctx: click.Context, /, limit: int, as_json: bool, **filters: Any) -> None:
    """List the newest jobs; with a command, show, watch, cancel, retry or delete one, or export them."""
    if ctx.invoked_subcommand is not None:
        return
    api = connect()
    answer = api.get("/jobs", limit=limit, **_query(api, **filters))
    if as_json:
        show.as_json(answer)
        return
    show.table(
        ("id", "kind", "state", "progress", "collection", "created", ""),
        [
            (
                job["id"],
                job["kind"],
                show.job_result(job),
                f"{job['progress']:.0%}",
                job["collection_name"],
                job["created_at"][:19].replace("T", " "),
                job["error"],
            )
            for job in answer["jobs"]
        ],
    )


def _print_job(job: Json, as_json: bool) -> None:
    if as_json:
        show.as_json(job)
    else:
        click.echo(f"{job['kind']} {job['id']}: {show.job_result(job)}, {job['progress']:.0%}")


@jobs.command("show")
@click.argument("job_id", type=click.UUID)
@json_option
def show_job(job_id: UUID, as_json: bool) -> None:
    """Show a job with what it has: the candidates of a search, the rejected and missing files of an upload."""
    api = connect()
    job = api.get(f"/jobs/{job_id}")
    if job["kind"] == JobKind.SEARCH:
        result = api.get(f"/searches/{job_id}")
        if as_json:
            show.as_json(result)
            return
        show.candidates(result)
    files: Json = {}
    if job["kind"] == JobKind.UPLOAD:
        state = api.get(f"/uploads/{job_id}")
        some = {
            str(status): api.get(f"/uploads/{job_id}/files", status=status, limit=SHOWN_FILES)["files"]
            for status in PROBLEMS
        }
        counted = {"counts": state["counts"], "parts": state["parts"]}
        files = {**counted, "to_come": job["files"]["to_come"] if job["files"] else 0, **some}
    _print_job(job | files, as_json)
    if not as_json:
        show.errors(job)
        if files:
            _print_files(files, api.page(f"/jobs/{job_id}"))


def _print_files(files: Json, page: str) -> None:
    """Print how often an upload has which outcome, what is still to come, and the first problems with the reasons."""
    counts = files["counts"]
    to_come = files["to_come"]
    nothing = "No files have arrived yet." if to_come else "No files arrived."
    click.echo(outcome_counts(counts, files["parts"]) or nothing)
    if to_come:
        click.echo(f"{to_come:,} {'file is' if to_come == 1 else 'files are'} still to come.")
    for status in PROBLEMS:
        for file in files[status]:
            click.echo(f"  {show.place(file)}: {file['error']['message']}")
        if (more := counts.get(status, 0) - sum(file["count"] for file in files[status])) > 0:
            click.echo(f"  and {more:,} more {FILE_STATUSES[status]}; {page} lists all.")


@jobs.command("files")
@click.argument("job_id", type=click.UUID)
@click.option(
    "--status",
    multiple=True,
    type=click.Choice([status.value for status in FileStatus]),
    help="Only files with this outcome; repeatable.",
)
@click.option("--csv", "as_csv", is_flag=True, help="Write CSV with a byte order mark, for Excel.")
@click.option("--output", type=click.File("wb", lazy=True), default="-", help="Output file; - is standard output.")
@json_option
def list_files(job_id: UUID, status: tuple[str, ...], as_csv: bool, output: BinaryIO, as_json: bool) -> None:
    """List what became of every file of an upload, of entries of archives and of rows of sheets."""
    if as_csv and as_json:
        raise click.UsageError("Choose one of --csv and --json.")
    api, address = connect(), f"/uploads/{job_id}/files"
    if as_csv:
        _write_csv(output, api.download(f"{address}.csv", status=list(status)))
        return
    files = api.pages(address, "files", status=list(status))
    if as_json:
        output.write(json.dumps({"files": list(files)}, ensure_ascii=False).encode() + b"\n")
        return
    for file in files:
        output.write(f"{FILE_STATUSES.get(file['status'], file['status']):<9}  {show.outcome(file)}\n".encode())


@jobs.command()
@click.argument("job_id", type=click.UUID)
@json_option
@click.pass_context
def watch(ctx: click.Context, job_id: UUID, as_json: bool) -> None:
    """Wait for the end of a job; the exit status is 0 only if it succeeded."""
    job = show.follow(connect(), str(job_id), quiet=as_json)
    _print_job(job, as_json)
    ctx.exit(0 if job["state"] == "succeeded" else 1)


@jobs.command()
@click.argument("job_id", type=click.UUID)
@json_option
def cancel(job_id: UUID, as_json: bool) -> None:
    """Cancel a job; results of done units stay."""
    _print_job(connect().call("POST", f"/jobs/{job_id}/cancel"), as_json)


@jobs.command()
@click.argument("job_id", type=click.UUID)
@json_option
def retry(job_id: UUID, as_json: bool) -> None:
    """Retry the dead and cancelled units of a job, and the rejected files of an upload that the server keeps.

    Results of done units stay.
    """
    api = connect()
    kind = api.get(f"/jobs/{job_id}")["kind"]
    job = api.call("POST", f"/{'uploads' if kind == JobKind.UPLOAD else 'jobs'}/{job_id}/retry")
    _print_job(job, as_json)
    if not as_json:
        click.echo(again_words(**job["again"]))


@jobs.command()
@click.argument("job_id", type=click.UUID)
@json_option
def delete(job_id: UUID, as_json: bool) -> None:
    """Delete a job that is over, with its results; collections and marks stay."""
    connect().call("DELETE", f"/jobs/{job_id}")
    if as_json:
        show.as_json({"deleted": str(job_id)})
    else:
        click.echo(f"{job_id}: deleted")


@jobs.command()
@_filters
@click.option("--results", is_flag=True, help="One row for each result of a search instead of each job.")
@click.option("--csv", "as_csv", is_flag=True, help="Write CSV with a byte order mark, for Excel, instead of JSON.")
@click.option("--output", type=click.File("wb", lazy=True), default="-", help="Output file; - is standard output.")
@json_option
def export(results: bool, as_csv: bool, output: BinaryIO, as_json: bool, **filters: Any) -> None:
    """Export the matching jobs, newest first, as JSON or CSV."""
    if as_csv and as_json:
        raise click.UsageError("Choose one of --csv and --json.")
    api = connect()
    rows, format = "results" if results else "jobs", "csv" if as_csv else "json"
    patient = PatientApi(api.http, Patience(PATIENCE, show.say), home=api.home)
    chunks = patient.download("/jobs/export", rows=rows, format=format, **_query(api, **filters))
    if as_csv:
        _write_csv(output, chunks)
    else:
        output.writelines(chunks)


def _write_csv(output: BinaryIO, chunks: Iterable[bytes]) -> None:
    """Write CSV as the pages export it, with the mark by which Excel knows UTF-8."""
    for number, chunk in enumerate(chunks):
        output.write(chunk if number else codecs.BOM_UTF8 + chunk)
