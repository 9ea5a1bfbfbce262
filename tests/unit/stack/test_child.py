"""A child process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from retllm.errors import StackError
from retllm.stack.child import Child, ProcessSpec, describe_status, log_tail

Standin = Callable[..., ProcessSpec]
SLEEP = "import time; time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)


def test_a_child_leads_its_own_process_group(standin: Standin) -> None:
    child = Child(standin("one", SLEEP), 0)
    try:
        assert os.getpgid(child.pid) == child.pid
        assert os.getsid(child.pid) == child.pid
    finally:
        child.ask_to_stop()
        assert child.stop()
    assert child.status == -signal.SIGTERM
    assert not psutil.pid_exists(child.pid)


def test_a_child_that_gives_way_goes_after_others_from_its_start_on(standin: Standin) -> None:
    first, other = Child(standin("worker", SLEEP, gives_way=True), 0), Child(standin("web", SLEEP), 0)
    try:
        ours, theirs = (os.getpriority(os.PRIO_PROCESS, one.pid) for one in (first, other))
        assert theirs == os.getpriority(os.PRIO_PROCESS, 0)
        # what was set from outside stays
        assert ours == (theirs or 5)
        group = Path(f"/proc/{first.pid}/autogroup")
        if group.exists() and not theirs:
            assert group.read_text().split()[-1] == str(ours)
    finally:
        for one in (first, other):
            one.stop(0)


def test_a_child_that_ends_while_starting_is_reported_with_the_last_lines_of_its_log(standin: Standin) -> None:
    child = Child(
        standin("bad", "import sys; print('line one'); print('no such thing'); sys.exit(3)", ready=lambda: False), 0
    )
    with pytest.raises(StackError, match=r"bad ended while starting \(exit status 3\); see .*bad\.log\.") as caught:
        child.wait_ready()
    assert caught.value.detail["tail"] == ["line one", "no such thing"]


def test_a_child_that_is_not_ready_in_time_raises_an_error(standin: Standin) -> None:
    child = Child(standin("slow", SLEEP, ready=lambda: False, ready_seconds=0.2), 0)
    try:
        with pytest.raises(StackError, match=r"slow was not ready after 0\.2 seconds"):
            child.wait_ready()
    finally:
        child.stop(0)


def test_a_process_that_runs_once_is_ready_after_it_exits_successfully(standin: Standin) -> None:
    child = Child(standin("once", "pass", once=True), 0)
    child.wait_ready()
    assert child.status == 0


def test_waiting_for_a_child_can_be_interrupted(standin: Standin) -> None:
    child = Child(standin("slow", SLEEP, ready=lambda: False), 0)
    try:
        with pytest.raises(StackError, match="interrupted"):
            child.wait_ready(lambda: True)
    finally:
        child.stop(0)


def test_a_child_that_ignores_its_stop_signal_is_killed_after_a_timeout(
    standin: Standin, until: Callable[..., None]
) -> None:
    spec = standin("stubborn", STUBBORN, stop_seconds=0.3)
    child = Child(spec, 0)
    until(lambda: log_tail(spec.log) == ["up"])
    start = time.monotonic()
    child.ask_to_stop()
    assert not child.stop()
    # long before it would exit by itself
    assert time.monotonic() - start < 60
    assert child.status == -signal.SIGKILL


def test_processes_in_the_group_of_a_child_end_with_it(standin: Standin, until: Callable[..., None]) -> None:
    program = (
        f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {SLEEP!r}]); "
        "print(p.pid, flush=True); p.wait()"
    )
    spec = standin("parent", program)
    child = Child(spec, 0)
    until(lambda: bool(log_tail(spec.log)))
    grandchild = psutil.Process(int(log_tail(spec.log)[0]))
    child.ask_to_stop()
    child.stop()
    psutil.wait_procs([grandchild], timeout=60)
    assert not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE


def test_the_tail_of_a_long_log_is_its_last_lines(tmp_path: Path) -> None:
    path = tmp_path / "long.log"
    path.write_text("".join(f"line {number}\n" for number in range(100_000)))
    assert log_tail(path, 2) == ["line 99998", "line 99999"]
    assert log_tail(tmp_path / "none.log") == []


def test_an_exit_status_is_described_in_words() -> None:
    assert describe_status(2) == "exit status 2"
    assert describe_status(-9) == "killed by signal 9"
