"""The entry point of the command line."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys

import click
import pytest

from retllm.cli import main as entry
from retllm.errors import StackError


def retllm(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    asked = [sys.executable, "-m", "retllm.cli.main", *arguments]
    return subprocess.run(asked, capture_output=True, text=True, env={**os.environ, **env}, timeout=60, check=False)


def test_the_list_of_commands_loads_none_of_them() -> None:
    program = (
        "import sys\nfrom retllm.cli.main import main\n"
        "try:\n    main(['--help'])\n"
        "finally:\n    print({'torch', 'sqlalchemy', 'celery', 'transformers'} & set(sys.modules), file=sys.stderr)"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "  up " in told.stdout
    assert told.stderr.strip() == "set()"


def test_every_command_in_the_list_is_there_and_says_what_it_does() -> None:
    for name in entry.cli.list_commands(click.Context(entry.cli)):
        module, _, attribute = entry.COMMANDS[name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        assert command.help, f"retllm {name} has no help"


def test_an_unknown_command_is_a_usage_error() -> None:
    told = retllm("fly")
    assert told.returncode == 2
    assert "No such command 'fly'" in told.stderr


def test_a_malformed_setting_is_one_line_that_names_the_variable() -> None:
    told = retllm("doctor", RETLLM_PORT="many")
    assert told.returncode == 2
    assert told.stdout == ""
    assert told.stderr.startswith("retllm: Invalid setting: RETLLM_PORT: ")
    assert len(told.stderr.splitlines()) == 1


def test_a_malformed_setting_is_the_one_error_shape_with_json() -> None:
    told = retllm("doctor", "--json", RETLLM_PORT="70000")
    assert told.returncode == 2
    shape = json.loads(told.stdout)
    assert set(shape) == {"error"}
    assert set(shape["error"]) == {"code", "message", "detail"}


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command `up` that raises an error of the platform."""

    @click.command()
    @click.option("--json", "as_json", is_flag=True)
    def command(as_json: bool) -> None:
        """Fail."""
        raise StackError("It is broken: mend it.", tail=["last words"])

    monkeypatch.setattr("retllm.cli.up.up", command)


@pytest.mark.usefixtures("failing")
def test_a_foreseen_error_is_a_sentence_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        entry.main(["up"])
    assert caught.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == "retllm: It is broken: mend it.\n    last words\n"


@pytest.mark.usefixtures("failing")
def test_a_foreseen_error_is_json_on_standard_output_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        entry.main(["up", "--json"])
    assert caught.value.code == 2
    assert json.loads(capsys.readouterr().out) == StackError("It is broken: mend it.", tail=["last words"]).as_json()
