"""The layout of the repository."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from retllm.stack import commands

ROOT = Path(__file__).resolve().parents[2]
TOP = {
    "platform",
    "workers",
    "web",
    "migrations",
    "tests",
    "alembic.ini",
    "Procfile",
    "pyproject.toml",
    "README.md",
    "Makefile",
}


def test_the_required_files_and_folders_exist() -> None:
    assert {name for name in TOP if not (ROOT / name).exists()} == set()


@pytest.mark.parametrize("folder", ["platform", "workers", "web"])
def test_no_source_root_is_a_package(folder: str) -> None:
    """platform/__init__.py would hide Python's own `platform` from everything that runs in the repository's folder."""
    assert not (ROOT / folder / "__init__.py").exists()


def test_the_standard_platform_module_is_found_in_the_folder_of_the_repository() -> None:
    command_line = [sys.executable, "-c", "import platform; print(platform.python_version())"]
    output = subprocess.run(command_line, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert output.strip() == ".".join(map(str, sys.version_info[:3]))


def test_the_procfile_runs_the_commands_of_the_stack() -> None:
    lines = [line.partition(":") for line in (ROOT / "Procfile").read_text("utf-8").splitlines() if line.strip()]
    written = {name: tuple(shlex.split(command)) for name, _, command in lines}
    assert written == {name: ("python", *arguments) for name, arguments in commands.PROCFILE.items()}


def test_the_ci_script_is_executable_and_runs_targets_of_the_makefile() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    targets = {line.split(":")[0] for line in (ROOT / "Makefile").read_text("utf-8").splitlines() if ":" in line}
    lines = [line.split() for line in script.read_text("utf-8").splitlines()]
    called = [words[1] for words in lines if words[:1] == ["make"]]
    assert sorted(called) == ["audit", "check", "collect", "demo", "docs", "sbom", "test", "venv"]
    # its last output shows that tests ran
    assert called[-1] == "test"
    assert set(called) <= targets


def test_every_dependency_has_its_version_pinned() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["dev"], *extras["docs"]]
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pinned = {canonicalize_name(line.split("==")[0]) for line in lines if "==" in line and not line.startswith("#")}
    assert {canonicalize_name(Requirement(line).name) for line in wanted} <= pinned


def test_every_console_script_exists() -> None:
    from importlib.metadata import entry_points

    (script,) = entry_points(group="console_scripts", name="retllm")
    assert callable(script.load())
