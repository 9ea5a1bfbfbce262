"""The entry of the command line: finds a command when it is asked for, and turns foreseen errors into one sentence."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

import click
import pydantic

from retllm import logs
from retllm.errors import RetllmError
from retllm.redaction import redact

FAILED = 2
"""Exit status of a command that could not do what was asked."""

COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("retllm.cli.up:up", "Start the platform on this machine, until Ctrl-C."),
    "doctor": ("retllm.cli.doctor:doctor", "Tell what is missing on this machine, and what to do."),
    "migrate": ("retllm.cli.migrate:migrate", "Bring the database to the newest schema."),
    "dispatch": ("retllm.cli.dispatch:dispatch", "Run a dispatcher, which announces waiting work."),
    "user": ("retllm.cli.user:user", "Make and change accounts."),
    "token": ("retllm.cli.token:token", "Make, list and end tokens of the API."),
    "collections": ("retllm.cli.collections:collections", "Make, list and delete collections."),
    "upload": ("retllm.cli.upload:upload", "Upload pictures and texts into a collection."),
    "search": ("retllm.cli.search:search", "Search a collection by text, picture, or both."),
    "jobs": ("retllm.cli.jobs:jobs", "List jobs, watch, cancel and retry them."),
    "eval": ("retllm.cli.evaluate:evaluate", "Measure both stages on a benchmark."),
    "bench": ("retllm.cli.bench:bench", "Measure the platform's speed on this machine."),
    "demo": ("retllm.cli.demo:demo", "Show the whole way on a collection that ships with the project."),
}
"""Each command: where it is (module:attribute), and its line in the list of commands.

A command whose module is missing is not offered. The lines stand here so that the list imports none of the modules.
"""


class LazyGroup(click.Group):
    """A group that imports a command's module only when that command is asked for."""

    def list_commands(self, _: click.Context) -> list[str]:
        """The commands whose modules exist."""
        return [name for name, (place, _) in COMMANDS.items() if importlib.util.find_spec(place.partition(":")[0])]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, or None where there is none."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands, from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    no_args_is_help=True,
)
@click.version_option(importlib.metadata.version("retllm-platform"), prog_name="retllm")
def cli() -> None:
    """Search over pictures and texts: CLIP and pgvector find candidates, a multimodal LLM judges each one.

    Settings come from the environment (RETLLM_...); `python -m retllm.settings` lists them.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 not done for a reason that is said, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    _log_to_stderr()
    try:
        status = cli.main(args=given, prog_name="retllm", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except RetllmError as error:
        sys.exit(_fail(error.message, error.as_json(), "--json" in given))
    except pydantic.ValidationError as error:
        if error.title != "Settings":
            raise
        message = settings_sentence(error)
        sys.exit(_fail(message, {"error": {"code": "settings", "message": message, "detail": {}}}, "--json" in given))
    except BrokenPipeError:
        # who read our output has closed it; Python would complain once more while flushing
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str, shape: dict[str, Any], as_json: bool) -> int:
    click.echo(f"retllm: {message}", err=True)
    for line in shape["error"]["detail"].get("tail", []):
        click.echo(f"    {line}", err=True)
    if as_json:
        click.echo(json.dumps(shape, default=str))
    return FAILED


def settings_sentence(error: pydantic.ValidationError) -> str:
    """What is wrong with the settings, each with the variable that holds it."""
    parts = []
    for problem in error.errors():
        if not problem["loc"]:
            # it is about several at once, and what was given are all settings, secrets too
            parts.append(problem["msg"])
            continue
        field = str(problem["loc"][0])
        variable = field if field.isupper() else f"RETLLM_{field.upper()}"
        parts.append(f"{variable}: {problem['msg']} (it is {problem['input']!r})")
    return redact("A setting can't be used: " + "; ".join(parts) + ".")


def _log_to_stderr() -> None:
    """Standard output belongs to the command's answer; logs go to the other one, from warnings up unless set."""
    level = os.environ.get("RETLLM_LOG_LEVEL", "WARNING")
    asked = os.environ.get("RETLLM_LOG_FORMAT")
    logs.configure(
        level if level in logging.getLevelNamesMapping() else "WARNING", "json" if asked == "json" else "console"
    )


if __name__ == "__main__":
    main()
