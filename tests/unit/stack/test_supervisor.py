"""Order of start and stop, restarts, and repeated crashes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from retllm.errors import StackError
from retllm.stack.child import Child, ProcessSpec
from retllm.stack.supervisor import QUICK_CRASHES, Supervisor

Standin = Callable[..., ProcessSpec]


class Watch:
    """A supervisor and its callbacks."""

    def __init__(self) -> None:
        self.failures: list[StackError] = []
        self.failed = threading.Event()
        self.changes: list[list[str]] = []
        self.supervisor = Supervisor(self._changed, self._failed, first_wait=0.01)

    def _changed(self, children: list[Child]) -> None:
        self.changes.append([child.spec.name for child in children])

    def _failed(self, failure: StackError) -> None:
        self.failures.append(failure)
        self.failed.set()


@pytest.fixture
def watch() -> Iterator[Watch]:
    made = Watch()
    yield made
    made.supervisor.stop()


def journal(path: Path, name: str) -> str:
    """A program that records its start and its end in a shared file."""
    return f"""
import signal, sys, time
def record(what):
    with open({str(path)!r}, "a") as file:
        file.write(what + " {name}\\n")
def end(*_):
    record("end")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
record("start")
open({str(path)!r} + ".{name}", "w").close()
time.sleep(600)
"""


def test_stages_start_in_order_and_stop_in_the_opposite_order(tmp_path: Path, standin: Standin, watch: Watch) -> None:
    path = tmp_path / "journal"

    def spec(name: str) -> ProcessSpec:
        return standin(name, journal(path, name), ready=Path(f"{path}.{name}").exists)

    watch.supervisor.start_stage([spec("database")])
    watch.supervisor.start_stage([spec("web")])
    watch.supervisor.start_stage([spec("worker"), spec("dispatch")])
    pids = [child.pid for child in watch.supervisor.children.values()]
    watch.supervisor.stop()
    lines = path.read_text().splitlines()
    assert lines[:2] == ["start database", "start web"]
    assert sorted(lines[2:4]) == ["start dispatch", "start worker"]
    assert sorted(lines[4:6]) == ["end dispatch", "end worker"]
    assert lines[6:] == ["end web", "end database"]
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert watch.supervisor.children == {}


def test_a_killed_child_is_restarted(standin: Standin, watch: Watch, until: Callable[..., None]) -> None:
    watch.supervisor.start_stage([standin("one", "import time; time.sleep(600)")])
    watch.supervisor.watch()
    first = watch.supervisor.children["one"].pid
    os.kill(first, signal.SIGKILL)
    until(lambda: watch.supervisor.children["one"].pid != first)
    assert psutil.pid_exists(watch.supervisor.children["one"].pid)
    assert not watch.failed.is_set()


def test_a_repeatedly_crashing_child_fails_with_the_last_lines_of_its_log(
    tmp_path: Path, standin: Standin, watch: Watch
) -> None:
    """The first run lasts until the file exists, so that the start succeeds."""
    gate = tmp_path / "gate"
    counter = tmp_path / "runs"
    program = f"""
import os, sys, time
open({str(counter)!r}, "a").write("x")
while not os.path.exists({str(gate)!r}):
    time.sleep(0.01)
print("the disk is on fire")
sys.exit(7)
"""
    watch.supervisor.start_stage([standin("bad", program)])
    gate.touch()
    watch.supervisor.watch()
    assert watch.failed.wait(60)
    (failure,) = watch.failures
    assert failure.message.startswith(f"bad was started {QUICK_CRASHES} times and ended each time within 10 seconds")
    assert "exit status 7" in failure.message
    assert failure.detail["tail"][-1] == "the disk is on fire"
    assert len(counter.read_text()) == QUICK_CRASHES


def test_a_process_that_runs_once_is_not_restarted(standin: Standin, watch: Watch) -> None:
    watch.supervisor.start_stage([standin("migrate", "pass", once=True)])
    assert watch.supervisor.children == {}
    assert watch.changes == [["migrate"], []]


def test_an_interrupted_supervisor_starts_no_children(standin: Standin, watch: Watch) -> None:
    watch.supervisor.interrupt()
    with pytest.raises(StackError, match="interrupted"):
        watch.supervisor.start_stage([standin("one", "pass")])
    assert watch.supervisor.children == {}


def test_hurry_kills_children_that_are_still_stopping(
    tmp_path: Path, standin: Standin, watch: Watch, until: Callable[..., None]
) -> None:
    ready = tmp_path / "ready"
    program = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        f"open({str(ready)!r}, 'w').close(); time.sleep(600)"
    )
    watch.supervisor.start_stage([standin("first", "import time; time.sleep(600)")])
    watch.supervisor.start_stage([standin("busy", program, ready=ready.exists, stop_seconds=600)])
    stopping = threading.Thread(target=watch.supervisor.stop)
    stopping.start()
    watch.supervisor.hurry()
    stopping.join(20)
    assert not stopping.is_alive()
    assert watch.supervisor.children == {}
