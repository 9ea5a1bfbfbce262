"""The record of a running stack, and ending processes that a killed stack left.

The record is ``RETLLM_HOME/run/stack.json``, readable by its owner only, since it contains the URLs of the servers. The
guardian of a killed stack and the next start on the same folder use it.
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
"""Environment variable that marks every process of a stack with the id of the stack."""

_END_SECONDS = 5.0
_SCAN_SECONDS = 0.05


@dataclass(frozen=True)
class ProcessRecord:
    """A process of a stack: how to find it, verify that it is the same, and stop it."""

    name: str
    pid: int
    created: float
    stage: int
    stop_signal: int
    stop_seconds: float


@dataclass
class StackRecord:
    """A running stack, as recorded in its file."""

    stack: str
    pid: int
    created: float
    url: str | None = None
    database_url: str | None = None
    redis_url: str | None = None
    processes: list[ProcessRecord] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Replace the file at `path` atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(asdict(self), file)
        temporary.replace(path)

    @classmethod
    def read(cls, path: Path) -> StackRecord | None:
        """Return the record at `path`, or None if there is no valid one."""
        try:
            data: dict[str, Any] = json.loads(path.read_text("utf-8"))
            processes = [ProcessRecord(**entry) for entry in data.pop("processes")]
            return cls(**data, processes=processes)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def is_alive(self) -> bool:
        """Return whether the process that started this stack is running."""
        return same_process(self.pid, self.created) is not None


def record_path(home: Path) -> Path:
    """Return the path of the record of the stack on `home`."""
    return home / "run" / "stack.json"


def running_stack(home: Path) -> StackRecord | None:
    """Return the record of the stack that runs on `home`, or None."""
    record = StackRecord.read(record_path(home))
    return record if record is not None and record.is_alive() else None


def created_at(pid: int) -> float:
    """Return the start time of process `pid` in seconds since 1970; 0 if it is gone."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return 0.0


def same_process(pid: int, created: float) -> psutil.Process | None:
    """Return the running process `pid` if it started at `created`, so that its id was not reused."""
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - created) < 0.05 and process.status() != psutil.STATUS_ZOMBIE:
            return process
    except psutil.NoSuchProcess:
        pass
    return None


def _wait_for_end(process: psutil.Process, seconds: float) -> bool:
    """Wait until `process` has ended; return false if it has not after `seconds`.

    A zombie, which is left if process 1 of a container does not reap it, counts as ended.
    """
    deadline = time.monotonic() + seconds
    while same_process(process.pid, process.create_time()) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def kill_group(leader: int, number: int) -> None:
    """Send signal `number` to the process group of `leader`, if it exists."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def end_stack(record: StackRecord) -> list[str]:
    """End all processes of a stack, the last started stage first; return the names of those ended.

    Each process gets its stop signal and its time to stop, then its group gets SIGKILL.
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
    return ended + _end_marked(record.stack)


def end_server(pid: int, folder: Path, seconds: float = 60) -> bool:
    """Interrupt process `pid` and wait for its end if its working directory is `folder`; else return false."""
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


def _end_marked(stack: str) -> list[str]:
    """Kill the processes marked with the stack until two scans in a row find none; return their names.

    A process that is being started has no environment for a moment, so that one scan can miss it.
    """
    ended: dict[int, str] = {}
    deadline = time.monotonic() + _END_SECONDS
    empty_scans = 0
    while empty_scans < 2 and time.monotonic() < deadline:
        found = list(_marked(stack))
        empty_scans = 0 if found else empty_scans + 1
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                ended.setdefault(process.pid, process.name())
                process.kill()
        time.sleep(_SCAN_SECONDS)
    return list(ended.values())


def _marked(stack: str) -> Iterator[psutil.Process]:
    """Yield the processes marked with the stack, including those not yet in its record."""
    for process in psutil.process_iter():
        try:
            marked = process.environ().get(STACK_VARIABLE) == stack
            if marked and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except (psutil.Error, OSError):
            continue
