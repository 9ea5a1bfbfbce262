"""What a running stack writes down about itself, and how its processes are ended when it did not end them itself.

The record is ``RETLLM_HOME/run/stack.json``, readable by its owner only (it holds the addresses of the servers).
Two readers act on it: the guardian, when its stack was killed outright, and the next start of a stack on the folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # ships no type information

STACK_VARIABLE = "RETLLM_STACK"
"""Environment variable that marks every process of a stack with the stack's identity."""


@dataclass(frozen=True)
class ProcessRecord:
    """One process of a stack: enough to find it again, to be sure that it is the same, and to stop it well."""

    name: str
    pid: int
    created: float
    stage: int
    stop_signal: int
    stop_seconds: float


@dataclass
class StackRecord:
    """A running stack, as its file tells it."""

    stack: str
    pid: int
    created: float
    url: str | None = None
    database_url: str | None = None
    redis_url: str | None = None
    processes: list[ProcessRecord] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Replace the file at `path` in one step."""
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".new")
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(asdict(self), file)
        beside.replace(path)

    @classmethod
    def read(cls, path: Path) -> StackRecord | None:
        """The record at `path`, or None where there is none that can be read."""
        try:
            data: dict[str, Any] = json.loads(path.read_text("utf-8"))
            processes = [ProcessRecord(**entry) for entry in data.pop("processes")]
            return cls(**data, processes=processes)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def is_alive(self) -> bool:
        """Whether the process that started this stack still runs."""
        return same_process(self.pid, self.created) is not None


def record_path(home: Path) -> Path:
    """Where the stack on `home` writes itself down."""
    return home / "run" / "stack.json"


def running_stack(home: Path) -> StackRecord | None:
    """The stack that runs on `home` now, or None."""
    record = StackRecord.read(record_path(home))
    return record if record is not None and record.is_alive() else None


def created_at(pid: int) -> float:
    """The moment that process `pid` began, in seconds since 1970; 0 when it is gone."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return 0.0


def same_process(pid: int, created: float) -> psutil.Process | None:
    """The running process `pid` if it is the one that began at `created`, and no later one of the same number."""
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - created) < 0.05 and process.status() != psutil.STATUS_ZOMBIE:
            return process
    except psutil.NoSuchProcess:
        pass
    return None


def _wait_for_end(process: psutil.Process, seconds: float) -> bool:
    """Wait until `process` runs no more; False when it still does after `seconds`.

    A process that has ended and that nobody collects (a container whose first process does not) has ended.
    """
    deadline = time.monotonic() + seconds
    while same_process(process.pid, process.create_time()) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def kill_group(leader: int, number: int) -> None:
    """Send signal `number` to the process group that `leader` leads; nothing happens when it is gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def end_stack(record: StackRecord) -> list[str]:
    """End every process of `record`'s stack, the last started stage first, and return the names of those ended.

    Each gets its own stop signal and its own time, then SIGKILL to its whole group.
    """
    ended: list[str] = []
    for stage in sorted({entry.stage for entry in record.processes}, reverse=True):
        found = [
            (entry, process)
            for entry in record.processes
            if entry.stage == stage and (process := same_process(entry.pid, entry.created)) is not None
        ]
        for entry, process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(entry.stop_signal)
        for entry, process in found:
            _wait_for_end(process, entry.stop_seconds)
            kill_group(entry.pid, signal.SIGKILL)
            ended.append(entry.name)
    for process in list(_marked(record.stack)):
        with contextlib.suppress(psutil.NoSuchProcess):
            ended.append(process.name())
            process.kill()
    _wait_until_unmarked(record.stack)
    return ended


def end_server(pid: int, folder: Path, seconds: float = 60) -> bool:
    """Interrupt process `pid` and wait for its end, if it works in `folder`; False when it is none of ours."""
    try:
        process = psutil.Process(pid)
        if Path(process.cwd()).resolve() != folder.resolve():
            return False
        process.send_signal(signal.SIGINT)
        if not _wait_for_end(process, seconds):
            process.kill()
            _wait_for_end(process, 5)
    except (psutil.Error, OSError):
        return False
    return True


def _wait_until_unmarked(stack: str) -> None:
    deadline = time.monotonic() + 5
    while any(_marked(stack)) and time.monotonic() < deadline:
        time.sleep(0.05)


def _marked(stack: str) -> Iterator[psutil.Process]:
    """Processes that carry the stack's mark: those that were started and not yet written down are among them."""
    for process in psutil.process_iter():
        try:
            marked = process.environ().get(STACK_VARIABLE) == stack
            if marked and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except (psutil.Error, OSError):
            continue
