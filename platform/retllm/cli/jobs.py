"""``retllm jobs``: what is at work, what is over, and what to do about it."""

from __future__ import annotations

import click

from retllm.cli import show
from retllm.cli.client import Json, connect, json_option
from retllm.db.enums import JobKind, JobState


@click.group(invoke_without_command=True)
@click.option("--state", type=click.Choice([state.value for state in JobState]), help="Only jobs in this state.")
@click.option("--kind", type=click.Choice([kind.value for kind in JobKind]), help="Only jobs of this kind.")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True, help="How many, newest first.")
@json_option
@click.pass_context
def jobs(ctx: click.Context, state: str | None, kind: str | None, limit: int, as_json: bool) -> None:
    """List the newest jobs; with a command, show, watch, cancel or retry one."""
    if ctx.invoked_subcommand is not None:
        return
    answer = connect().get("/jobs", state=state, kind=kind, limit=limit)
    if as_json:
        show.as_json(answer)
        return
    show.table(
        ("id", "kind", "state", "progress", "collection", "created", ""),
        [
            (
                job["id"],
                job["kind"],
                job["state"],
                f"{job['progress']:.0%}",
                job["collection_name"],
                job["created_at"][:19].replace("T", " "),
                job["error"],
            )
            for job in answer["jobs"]
        ],
    )


def _tell(job: Json, as_json: bool) -> None:
    if as_json:
        show.as_json(job)
    else:
        click.echo(f"{job['kind']} {job['id']}: {job['state']}, {job['progress']:.0%}")


@jobs.command("show")
@click.argument("job_id")
@json_option
def show_job(job_id: str, as_json: bool) -> None:
    """Show a job; of a search, its candidates in their order."""
    api = connect()
    job = api.get(f"/jobs/{job_id}")
    if job["kind"] == "search":
        result = api.get(f"/searches/{job_id}")
        if as_json:
            show.as_json(result)
            return
        show.candidates(result)
    _tell(job, as_json)
    if not as_json:
        show.tell_errors(job)


@jobs.command()
@click.argument("job_id")
@json_option
@click.pass_context
def watch(ctx: click.Context, job_id: str, as_json: bool) -> None:
    """Wait for the end of a job; the exit status is 0 only if it succeeded."""
    job = show.follow(connect(), job_id, quiet=as_json)
    _tell(job, as_json)
    ctx.exit(0 if job["state"] == "succeeded" else 1)


@jobs.command()
@click.argument("job_id")
@json_option
def cancel(job_id: str, as_json: bool) -> None:
    """Stop a job; what is done stays."""
    _tell(connect().call("POST", f"/jobs/{job_id}/cancel"), as_json)


@jobs.command()
@click.argument("job_id")
@json_option
def retry(job_id: str, as_json: bool) -> None:
    """Try again what failed or was cancelled; what is done is kept."""
    _tell(connect().call("POST", f"/jobs/{job_id}/retry"), as_json)
