"""``retllm doctor``: checks the requirements on this machine, and whether work is stuck."""

from __future__ import annotations

import json
import logging
import os

import click

from retllm.cli.audit_jobs import audit_jobs
from retllm.cli.check import Check
from retllm.cli.check_models import check_answers
from retllm.cli.checks import run_checks
from retllm.settings import Settings

_FAILED = 2
_MARKS = {"ok": click.style("ok     ", fg="green"), "warning": click.style("warning", fg="yellow")}
_FAILED_MARK = click.style("failed ", fg="red", bold=True)


@click.command()
@click.option("--audit", is_flag=True, help="Also check all accepted work against the rules of the job core.")
@click.option("--scorer", is_flag=True, help="Also load each scorer and ask it about a dozen known pairs.")
@click.option("--json", "as_json", is_flag=True, help="Print the checks as one JSON object.")
def doctor(audit: bool, scorer: bool, as_json: bool) -> int:
    """Check the requirements of the platform and whether work is stuck, and say what to do.

    Checks Python, PostgreSQL with pgvector, Redis, storage, disk, port, GPU and models; if the platform is running,
    also its workers, queues and units. Needs no running server and starts none; only --audit needs the database.

    --scorer warns if the scores of known pairs are flat, if the model wants to say something else than the labels, if
    right and wrong are not told apart, or if both lie on one side of even odds: signs of a wrong chat template or
    profile. The exit status is 0 if no check failed, else 2.
    """
    if "RETLLM_LOG_LEVEL" not in os.environ:
        # the report says what the warnings of the checked parts say
        logging.getLogger().setLevel(logging.ERROR)
    settings = Settings()
    checks = [
        *run_checks(settings),
        *(check_answers(settings) if scorer else []),
        *(audit_jobs(settings) if audit else []),
    ]
    failed = any(check.state == "failed" for check in checks)
    if as_json:
        click.echo(json.dumps({"ok": not failed, "checks": [check.as_json() for check in checks]}))
    else:
        for check in checks:
            _show(check)
        click.echo("Some checks failed, see above." if failed else "No check failed.")
    return _FAILED if failed else 0


def _show(check: Check) -> None:
    click.echo(f"{_MARKS.get(check.state, _FAILED_MARK)}  {check.name:10}  {check.message}")
    if check.advice and check.state != "ok":
        click.echo(f"{'':9}{'':12}-> {check.advice}")
