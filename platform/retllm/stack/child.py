"""A child process with its own process group and log: started, polled until ready, stopped with a timeout."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL, SIGTERM

from retllm.errors import StackError
from retllm.priority import give_way
from retllm.stack.account import Account
from retllm.stack.leftovers import ProcessRecord, created_at, kill_group

_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class ProcessSpec:
    """What to run, how to detect that it is ready, and how to stop it.

    `ready` is polled while the process runs, for at most `ready_seconds`. With `once`, the process is ready when it has
    exited with status 0. `stop_signal` stops it; after `stop_seconds` its group is killed. One that `gives_way` has a
    lower priority than the others.
    """

    name: str
    argv: tuple[str, ...]
    log: Path
    env: Mapping[str, str]
    ready: Callable[[], bool] = field(default=lambda: True)
    ready_seconds: float = 60
    stop_signal: int = SIGTERM
    stop_seconds: float = 15
    once: bool = False
    cwd: Path | None = None
    account: Account | None = None
    gives_way: bool = False


def log_tail(path: Path, lines: int = 15) -> list[str]:
    """Return the last lines of the log at `path`; none if there is no log."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 16_384))
            return file.read().decode("utf-8", "replace").splitlines()[-lines:]
    except OSError:
        return []


class Child:
    """A process started from a `ProcessSpec` as part of a `stage`."""

    def __init__(self, spec: ProcessSpec, stage: int) -> None:
        self.spec = spec
        self.stage = stage
        self.started = time.monotonic()
        identity: dict[str, int | list[int]] = {}
        if spec.account is not None:
            identity = {"user": spec.account.uid, "group": spec.account.gid, "extra_groups": []}
        spec.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with spec.log.open("ab") as output:
            self._popen = subprocess.Popen(  # type: ignore[call-overload]  # noqa: S603 - the stack's own commands
                spec.argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(spec.env),
                cwd=spec.cwd,
                # Ctrl-C in the terminal then reaches only the stack, which stops its children in order
                start_new_session=True,
                **identity,
            )
        self.pid: int = self._popen.pid
        if spec.gives_way:
            give_way(self.pid)
        self._created = created_at(self.pid)

    @property
    def record(self) -> ProcessRecord:
        """The entry of this process in the stack's record."""
        return ProcessRecord(
            self.spec.name, self.pid, self._created, self.stage, int(self.spec.stop_signal), self.spec.stop_seconds
        )

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal, or None while it runs."""
        status: int | None = self._popen.poll()
        return status

    @property
    def age(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def wait_ready(self, stopping: Callable[[], bool] = lambda: False) -> None:
        """Wait until the process is ready.

        Raises:
            StackError: it exits, is not ready after `ready_seconds`, or `stopping` returns true.
        """
        while not stopping():
            status = self.status
            if status is not None:
                if self.spec.once and status == 0:
                    return
                raise self.failure(f"{self.spec.name} ended while starting ({describe_status(status)})")
            if not self.spec.once and self.spec.ready():
                return
            if self.age > self.spec.ready_seconds:
                raise self.failure(f"{self.spec.name} was not ready after {self.spec.ready_seconds:g} seconds")
            time.sleep(_POLL_SECONDS)
        raise StackError(f"The start was interrupted while {self.spec.name} was starting.")

    def failure(self, reason: str) -> StackError:
        """Return an error with `reason`, the path of the log and its last lines."""
        return StackError(
            f"{reason}; see {self.spec.log}.",
            process=self.spec.name,
            log=str(self.spec.log),
            tail=log_tail(self.spec.log),
        )

    def ask_to_stop(self) -> None:
        """Send the stop signal to the process only; it ends its own children."""
        if self.status is None:
            self._popen.send_signal(self.spec.stop_signal)

    def stop(self, seconds: float | None = None) -> bool:
        """Wait for the exit, then kill the group; return whether it exited by itself within `seconds`."""
        clean = True
        try:
            self._popen.wait(self.spec.stop_seconds if seconds is None else seconds)
        except subprocess.TimeoutExpired:
            clean = False
        kill_group(self.pid, SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(5)
        return clean


def describe_status(status: int) -> str:
    """Describe an exit status."""
    return f"killed by signal {-status}" if status < 0 else f"exit status {status}"
