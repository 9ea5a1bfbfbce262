"""The entry point of the command line."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from retllm.cli import main as entry
from retllm.errors import StackError

ROOT = Path(__file__).parents[3]


def retllm(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "retllm.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env}, timeout=60, check=False)


def test_listing_the_commands_imports_no_heavy_libraries() -> None:
    program = (
        "import sys\nfrom retllm.cli.main import main\n"
        "try:\n    main(['--help'])\n"
        "finally:\n    print({'torch', 'sqlalchemy', 'celery', 'transformers'} & set(sys.modules), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "  up " in result.stdout
    assert result.stderr.strip() == "set()"


@pytest.mark.parametrize("library", ["click", "httpx"])
def test_ctrl_c_during_the_imports_ends_the_program_quietly(tmp_path: Path, library: str) -> None:
    """The entry point imports click, and the command httpx."""
    script = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]["retllm"]
    module, _, function = script.partition(":")
    (tmp_path / f"{library}.py").write_text("print('imported', flush=True)\ninput()\n")
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    # a shell lets what it starts in the background ignore the signal, and so would these tests there
    heeds = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    program = f"{heeds}import sys\nfrom {module} import {function}\nsys.argv = ['retllm', 'jobs']\n{function}()"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    ) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "imported\n"
        started.send_signal(signal.SIGINT)
        # its standard input is closed only here, so it ends by the signal
        assert started.wait(60) == 130
        assert started.stderr is not None
        assert started.stderr.read() == ""


def test_every_listed_command_exists_and_has_help() -> None:
    for name in entry.cli.list_commands(click.Context(entry.cli)):
        module, _, attribute = entry.COMMANDS[name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        assert command.help, f"retllm {name} has no help"


def test_an_unknown_command_is_a_usage_error() -> None:
    result = retllm("fly")
    assert result.returncode == 2
    assert "No such command 'fly'" in result.stderr


def test_a_malformed_setting_prints_one_line_that_names_the_variable() -> None:
    result = retllm("doctor", RETLLM_PORT="many")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("retllm: Invalid setting: RETLLM_PORT: ")
    assert len(result.stderr.splitlines()) == 1


def test_a_malformed_setting_prints_an_error_object_with_json() -> None:
    result = retllm("doctor", "--json", RETLLM_PORT="70000")
    assert result.returncode == 2
    answer = json.loads(result.stdout)
    assert set(answer) == {"error"}
    assert set(answer["error"]) == {"code", "message", "detail"}


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
def test_an_expected_error_prints_one_sentence_and_exits_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        entry.main(["up"])
    assert caught.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == "retllm: It is broken: mend it.\n    last words\n"


@pytest.mark.usefixtures("failing")
def test_an_expected_error_is_printed_as_json_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        entry.main(["up", "--json"])
    assert caught.value.code == 2
    assert json.loads(capsys.readouterr().out) == StackError("It is broken: mend it.", tail=["last words"]).as_json()
