"""The record of a stack, and the end of its leftover processes."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from retllm.stack.child import Child, ProcessSpec
from retllm.stack.leftovers import STACK_VARIABLE, StackRecord, created_at, end_server, end_stack, same_process

Standin = Callable[..., ProcessSpec]
SLEEP = "import time; time.sleep(600)"


def record(*children: Child, stack: str = "s") -> StackRecord:
    made = StackRecord(stack=stack, pid=os.getpid(), created=created_at(os.getpid()))
    made.processes = [child.record for child in children]
    return made


def test_a_record_is_read_as_it_was_written_and_only_its_owner_can_read_it(tmp_path: Path, standin: Standin) -> None:
    child = Child(standin("one", SLEEP), 3)
    try:
        written = record(child)
        written.database_url = "postgresql+psycopg://x"
        path = tmp_path / "run" / "stack.json"
        written.write(path)
        assert StackRecord.read(path) == written
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        child.stop(0)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"stack": "s"}', '{"processes": [{"x": 1}]}'])
def test_an_unreadable_record_counts_as_missing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "stack.json"
    path.write_text(text)
    assert StackRecord.read(path) is None
    assert StackRecord.read(tmp_path / "missing.json") is None


def test_a_process_is_identified_by_its_id_and_creation_time() -> None:
    created = created_at(os.getpid())
    assert same_process(os.getpid(), created) is not None
    assert same_process(os.getpid(), created - 60) is None


def test_a_process_with_a_reused_id_is_not_stopped(standin: Standin) -> None:
    child = Child(standin("bystander", SLEEP), 0)
    try:
        made = record(child)
        made.processes = [type(entry)(**{**vars(entry), "created": entry.created - 60}) for entry in made.processes]
        assert end_stack(made) == []
        assert child.status is None
    finally:
        child.stop(0)


def test_leftover_processes_of_the_last_stage_are_ended_first(
    tmp_path: Path, standin: Standin, until: Callable[..., None]
) -> None:
    path = tmp_path / "order"

    def program(name: str) -> str:
        return (
            "import signal, sys, time\n"
            f"def end(*_):\n    open({str(path)!r}, 'a').write('{name} ')\n    sys.exit(0)\n"
            f"signal.signal(signal.SIGTERM, end)\nopen({str(path)!r} + '.{name}', 'w').close()\ntime.sleep(600)\n"
        )

    children = [Child(standin(name, program(name)), stage) for stage, name in enumerate(("database", "web", "worker"))]
    until(lambda: all(Path(f"{path}.{name}").exists() for name in ("database", "web", "worker")))
    assert end_stack(record(*children)) == ["worker", "web", "database"]
    assert path.read_text().split() == ["worker", "web", "database"]
    assert all(child.status == 0 for child in children)


def test_an_unrecorded_process_is_found_by_its_environment_variable(standin: Standin) -> None:
    child = Child(standin("new", SLEEP, env={**os.environ, STACK_VARIABLE: "marked-stack"}), 0)
    end_stack(record(stack="marked-stack"))
    assert child.stop(60)
    assert child.status == -signal.SIGKILL


def test_a_process_whose_environment_is_not_set_yet_is_found(standin: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    child = Child(standin("new", SLEEP, env={**os.environ, STACK_VARIABLE: "marked-stack"}), 0)
    environment = psutil.Process.environ
    hidden = {child.pid}

    def not_yet(process: psutil.Process) -> dict[str, str]:
        if process.pid not in hidden:
            return environment(process)
        hidden.remove(process.pid)
        return {}

    monkeypatch.setattr(psutil.Process, "environ", not_yet)
    end_stack(record(stack="marked-stack"))
    assert child.stop(60)
    assert child.status == -signal.SIGKILL


def test_a_server_is_ended_only_if_it_runs_in_the_given_folder(tmp_path: Path, standin: Standin) -> None:
    home = tmp_path / "data"
    home.mkdir()
    # a process started from tests that run in the background would ignore the signal, unlike a server
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    child = Child(standin("server", SLEEP, cwd=home), 0)
    signal.signal(signal.SIGINT, before)
    try:
        assert not end_server(child.pid, tmp_path)
        assert child.status is None
        assert end_server(child.pid, home)
        assert not end_server(2**22 + 1, home)
    finally:
        child.stop(0)


def guardian(path: Path, stack: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "retllm.stack.guardian", str(path), stack], stdin=subprocess.PIPE)


def test_the_guardian_ends_a_stack_whose_pipe_closes(tmp_path: Path, standin: Standin) -> None:
    child = Child(standin("orphan", SLEEP), 0)
    path = tmp_path / "stack.json"
    record(child).write(path)
    process = guardian(path, "s")
    assert process.poll() is None
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(60) == 0
    assert child.stop(60)
    assert not path.exists()
    assert not psutil.pid_exists(child.pid)


def test_the_guardian_ends_a_stack_whose_folder_was_removed(tmp_path: Path, standin: Standin) -> None:
    child = Child(standin("orphan", SLEEP, env={**os.environ, STACK_VARIABLE: "removed-stack"}), 0)
    process = guardian(tmp_path / "no-such-folder" / "stack.json", "removed-stack")
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(60) == 0
    assert child.stop(60)
    assert child.status == -signal.SIGKILL


def test_the_guardian_leaves_a_newer_stack_alone(tmp_path: Path, standin: Standin) -> None:
    child = Child(standin("newer", SLEEP), 0)
    try:
        path = tmp_path / "stack.json"
        record(child, stack="newer").write(path)
        process = guardian(path, "older")
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0
        assert child.status is None
        assert path.exists()
    finally:
        child.stop(0)
