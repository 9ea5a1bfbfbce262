"""``retllm doctor``: what this machine has and lacks for the platform, and what is stuck; nothing is started."""

from __future__ import annotations

import json

import click

from retllm.cli.audit_jobs import audit_jobs
from retllm.cli.checks import Check, run_checks
from retllm.settings import Settings

_FAILED = 2
_MARKS = {"ok": click.style("ok     ", fg="green"), "warning": click.style("warning", fg="yellow")}
_FAILED_MARK = click.style("failed ", fg="red", bold=True)


@click.command()
@click.option("--audit", is_flag=True, help="Also hold all accepted work against the rules of the job core.")
@click.option("--json", "as_json", is_flag=True, help="Print the checks as one JSON object.")
def doctor(audit: bool, as_json: bool) -> int:
    """Tell what is missing on this machine for the platform to run, which work is stuck and why, and what to do.

    Looks at Python, PostgreSQL with pgvector, Redis, storage, disk, the port, the GPU and the chosen models; where the
    platform runs, at its workers, queues and units too. No server has to be running, and none is started; with --audit
    the database has to run. Exit status 0 when nothing failed, else 2.
    """
    settings = Settings()
    checks = run_checks(settings) + (audit_jobs(settings) if audit else [])
    failed = any(check.state == "failed" for check in checks)
    if as_json:
        click.echo(json.dumps({"ok": not failed, "checks": [check.as_json() for check in checks]}))
    else:
        for check in checks:
            _show(check)
        click.echo("Something is missing, see above." if failed else "Everything that is needed is there.")
    return _FAILED if failed else 0


def _show(check: Check) -> None:
    click.echo(f"{_MARKS.get(check.state, _FAILED_MARK)}  {check.name:10}  {check.message}")
    if check.advice and check.state != "ok":
        click.echo(f"{'':9}{'':12}-> {check.advice}")
