"""One child process: started with its own group and log, checked until it is ready, stopped with a time limit."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL, SIGTERM

from retllm.errors import StackError
from retllm.stack.account import Account
from retllm.stack.leftovers import ProcessRecord, created_at, kill_group

_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class ProcessSpec:
    """What to run, how to know that it is ready, and how to stop it.

    `ready` is asked repeatedly while the process runs, for `ready_seconds` at most. With `once`, the process is ready
    when it has ended with status 0. `stop_signal` asks it to end; after `stop_seconds` its group is killed.
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


def log_tail(path: Path, lines: int = 15) -> list[str]:
    """The last lines of the log at `path`; none where there is no log."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 16_384))
            return file.read().decode("utf-8", "replace").splitlines()[-lines:]
    except OSError:
        return []


class Child:
    """A process that was started from a `ProcessSpec`; `stage` says with which others."""

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
                # a group of its own: the terminal's Ctrl-C reaches the stack alone, which stops the others in order
                start_new_session=True,
                **identity,
            )
        self.pid: int = self._popen.pid
        self._created = created_at(self.pid)

    @property
    def record(self) -> ProcessRecord:
        """What the stack's file says about this process."""
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
        """Seconds since it was started."""
        return time.monotonic() - self.started

    def wait_ready(self, stopping: Callable[[], bool] = lambda: False) -> None:
        """Return when the process is ready.

        Raises StackError when it ends before, takes longer than its `ready_seconds`, or `stopping` says to give up.
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
        """`reason` as an error that names the log and carries its last lines."""
        return StackError(
            f"{reason}; see {self.spec.log}.",
            process=self.spec.name,
            log=str(self.spec.log),
            tail=log_tail(self.spec.log),
        )

    def ask_to_stop(self) -> None:
        """Send the stop signal, to the process alone: it knows how to end its own children."""
        if self.status is None:
            self._popen.send_signal(self.spec.stop_signal)

    def stop(self, seconds: float | None = None) -> bool:
        """Wait for the end, then kill the group; True when it ended by itself within `seconds`."""
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
    """An exit status in words."""
    return f"killed by signal {-status}" if status < 0 else f"exit status {status}"
