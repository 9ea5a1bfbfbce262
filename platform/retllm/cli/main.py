"""The command line: imports commands on demand and prints expected errors as one sentence."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
import pydantic

from retllm import logs
from retllm.cli.entry import INTERRUPTED, importing
from retllm.errors import RetllmError
from retllm.redaction import redact

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

FAILED = 2
"""Exit status of a command that failed."""

COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("retllm.cli.up:up", "Start the platform on this machine, until Ctrl-C."),
    "doctor": ("retllm.cli.doctor:doctor", "Check this machine and the running platform."),
    "migrate": ("retllm.cli.migrate:migrate", "Upgrade the database to the newest schema."),
    "dispatch": ("retllm.cli.dispatch:dispatch", "Run a dispatcher, which notifies workers."),
    "user": ("retllm.cli.user:user", "Create and change accounts."),
    "token": ("retllm.cli.token:token", "Create, list and revoke API tokens."),
    "collections": ("retllm.cli.collections:collections", "Create, list and delete collections."),
    "link": ("retllm.cli.link:link", "Share a collection or a result by a link, without an account."),
    "trash": ("retllm.cli.trash:trash", "List and restore what was deleted, or delete it for good."),
    "upload": ("retllm.cli.upload:upload", "Upload pictures and texts into a collection."),
    "import": ("retllm.cli.folder_import:import_folder", "Import a folder of this machine where it lies."),
    "download": ("retllm.cli.download:download", "Download the items of a collection as a ZIP."),
    "search": ("retllm.cli.search:search", "Search a collection by text, picture, or both."),
    "jobs": ("retllm.cli.jobs:jobs", "List, watch, cancel and retry jobs."),
    "duplicates": ("retllm.cli.duplicates:duplicates", "Find pictures of a collection that are nearly the same."),
    "map": ("retllm.cli.maps:map_collection", "Lay out the items of a collection on a map."),
    "ocr": ("retllm.cli.ocr:ocr", "Read the text in the pictures of a collection."),
    "copies": ("retllm.cli.copies:copies", "Make the working copies that older pictures lack."),
    "eval": ("retllm.cli.evaluate:evaluate", "Measure both stages on a benchmark."),
    "bench": ("retllm.cli.bench:bench", "Measure the platform's speed on this machine."),
    "demo": ("retllm.cli.demo:demo", "Upload and search a demo collection."),
}
"""Each command with its location (module:attribute) and its line in the help, which is here to avoid the imports.

A command whose module is missing is not listed.
"""


class LazyGroup(click.Group):
    """A group that imports the module of a command only when it runs."""

    def list_commands(self, _: click.Context) -> list[str]:
        """Return the commands whose modules exist."""
        return [name for name, (path, _) in COMMANDS.items() if importlib.util.find_spec(path.partition(":")[0])]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command with that name, or None."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        with importing():
            command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from ``COMMANDS``."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    no_args_is_help=True,
)
@click.version_option(importlib.metadata.version("retllm-platform"), prog_name="retllm")
def cli() -> None:
    """Search over pictures and texts: CLIP and pgvector find candidates, a multimodal LLM scores them.

    Settings come from the environment (RETLLM_...); `python -m retllm.settings` lists them.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with 0 (success), 2 (error, which is printed) or 130 (interrupted).

    An error of a command that has done a part of its work has another ``exit_status``.
    """
    options = list(sys.argv[1:] if arguments is None else arguments)
    _log_to_stderr()
    try:
        status = cli.main(args=options, prog_name="retllm", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    except RetllmError as error:
        _fail(error.message, error.as_json(), "--json" in options)
        sys.exit(getattr(error, "exit_status", FAILED))
    except pydantic.ValidationError as error:
        if error.title != "Settings":
            raise
        message = settings_sentence(error)
        sys.exit(_fail(message, {"error": {"code": "settings", "message": message, "detail": {}}}, "--json" in options))
    except BrokenPipeError:
        # the reader closed the pipe; without this Python reports an error at the final flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str, body: dict[str, Any], as_json: bool) -> int:
    click.echo(f"retllm: {message}", err=True)
    for line in body["error"]["detail"].get("tail", []):
        click.echo(f"    {line}", err=True)
    if as_json:
        click.echo(json.dumps(body, default=str))
    return FAILED


def settings_sentence(error: pydantic.ValidationError) -> str:
    """Describe invalid settings, each with its environment variable."""
    parts = []
    for problem in error.errors():
        if not problem["loc"]:
            # concerns several settings; its input would be all of them, with secrets
            parts.append(_mistake(problem))
            continue
        field = str(problem["loc"][0])
        variable = field if field.isupper() else f"RETLLM_{field.upper()}"
        if field == "extra_scorers":
            # its input may hold a key
            entry, *key = problem["loc"][1:] or (None,)
            place = "" if entry is None else f" (entry {int(entry) + 1}{''.join(f', {name}' for name in key)})"
            parts.append(f"{variable}{place}: {_mistake(problem)}")
            continue
        mistake = _mistake(problem)
        value = "" if str(problem["input"]) in mistake else f" (it is {problem['input']!r})"
        parts.append(f"{variable}: {mistake}{value}")
    return redact("Invalid setting: " + "; ".join(parts) + ".")


def _mistake(problem: ErrorDetails) -> str:
    """Return what is wrong with a value; the words of pydantic are for programmers."""
    if problem["type"] == "extra_forbidden":
        from retllm.model_settings import ExtraScorer

        return f"an entry has no such key; it may have {', '.join(ExtraScorer.model_fields)}"
    if problem["type"] == "model_type":
        return "an entry is a name, or an object with the key scorer"
    return problem["msg"].removeprefix("Value error, ").removesuffix(".")


def _log_to_stderr() -> None:
    """Log to standard error, by default from level WARNING, and leave standard output to the command."""
    level = os.environ.get("RETLLM_LOG_LEVEL", "WARNING")
    log_format = os.environ.get("RETLLM_LOG_FORMAT")
    logs.configure(
        level if level in logging.getLevelNamesMapping() else "WARNING", "json" if log_format == "json" else "console"
    )


if __name__ == "__main__":
    main()
