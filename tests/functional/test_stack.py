"""`retllm up` as a real process, with real servers, web server, dispatcher and workers."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest
import sqlalchemy as sa
from tests.functional.contract import picture
from tests.functional.forked import Forks
from tests.waiting import wait_until

from retllm.stack import LocalStack
from retllm.stack.leftovers import record_path

READY_SECONDS = 240
PROCESSES = ["postgres", "redis", "web", "dispatch", "media", "embed", "score"]


def environment(home: Path, **changes: str) -> dict[str, str]:
    found = {name: value for name, value in os.environ.items() if not name.startswith("RETLLM_")}
    for name in ("DATABASE_URL", "REDIS_URL"):
        found.pop(name, None)
    fixed = {"RETLLM_HOME": str(home), "RETLLM_PORT": "0", "RETLLM_TORCH_THREADS": "1", "RETLLM_PRESET": "demo"}
    return found | fixed | changes


class Up:
    """A running `retllm up --json`."""

    def __init__(self, home: Path, **changes: str) -> None:
        self.home = home
        arguments = [sys.executable, "-m", "retllm.cli.main", "up", "--json"]
        self.process = subprocess.Popen(arguments, env=environment(home, **changes), stdout=subprocess.PIPE, text=True)
        self.ready: dict[str, Any] = {}

    def wait_ready(self) -> dict[str, Any]:
        """Read its output until it is ready; fail the test if it ends before."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = json.loads(line)
            if event.get("event") == "ready":
                self.ready = event
                return event
        pytest.fail(f"retllm up ended with {self.process.wait()}")

    def descendants(self) -> list[psutil.Process]:
        """Return every process that it started, and their children."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self, number: int) -> int:
        """Send a signal, wait for the end and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(240)


def running_processes(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all starts of this module, each of which finds the data of the previous one."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def up(home: Path) -> Iterator[Up]:
    yield from run_up(home)


@pytest.fixture
def up_without_scorer(home: Path) -> Iterator[Up]:
    """Importing the libraries of the scorer takes most of a start."""
    yield from run_up(home, RETLLM_SCORE_WORKERS="0")


def run_up(home: Path, **changes: str) -> Iterator[Up]:
    running = Up(home, **changes)
    yield running
    if running.process.poll() is None:
        running.stop(signal.SIGTERM)


def open_to_others(home: Path) -> list[Path]:
    """Return what is in a folder and can be read or changed by other accounts."""
    return [path for path in home.rglob("*") if not path.is_symlink() and stat.S_IMODE(path.lstat().st_mode) & 0o077]


def client(home: Path) -> httpx.Client:
    """Return a client that uses the configuration that the stack wrote for the command line."""
    path = home / "client.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = json.loads(path.read_text("utf-8"))
    headers = {"Authorization": f"Bearer {found['token']}"}
    return httpx.Client(base_url=found["url"] + "/api/v1", headers=headers, timeout=120)


@pytest.mark.timeout(READY_SECONDS + 480)
def test_the_first_start_creates_an_administrator_and_a_stop_leaves_no_processes(home: Path, up: Up) -> None:
    ready = up.wait_ready()
    assert list(ready["processes"]) == PROCESSES
    # other accounts may only traverse the folder, which PostgreSQL may need to do
    assert stat.S_IMODE(home.stat().st_mode) & 0o066 == 0
    assert ready["admin"]["name"] == "admin"
    assert len(ready["admin"]["password"]) >= 16
    assert httpx.get(ready["url"] + "/readyz").json()["ready"] is True
    with client(home) as api:
        made = api.post("/collections", json={"name": "kept over a restart"})
        assert made.status_code == 201
        sent = api.post(f"/collections/{made.json()['id']}/items", files={"file": ("a.png", picture())})
        assert sent.json()["added"] == 1
    assert list((home / "media").rglob("original"))
    assert open_to_others(home) == []
    second = subprocess.run(
        [sys.executable, "-m", "retllm.cli.main", "up"],
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert second.returncode == 2
    assert second.stderr == (
        f"retllm: Another stack (process {up.process.pid}) is running on {home}: stop it, or set RETLLM_HOME to "
        "another folder.\n"
    )
    assert httpx.get(ready["url"] + "/readyz").status_code == 200
    descendants = up.descendants()
    assert {process.pid for process in descendants} >= set(ready["processes"].values())
    assert up.stop(signal.SIGTERM) == 0
    assert running_processes(descendants) == []
    assert not record_path(home).exists()
    for name in [*PROCESSES, "migrate"]:
        assert (home / "logs" / f"{name}.log").stat().st_size >= 0


@pytest.mark.timeout(READY_SECONDS + 480)
def test_a_restarted_stack_keeps_its_data_recovers_a_killed_server_and_ends_with_its_parent(
    home: Path, up_without_scorer: Up
) -> None:
    """Uses the folder that the first start created."""
    up = up_without_scorer
    ready = up.wait_ready()
    assert ready["admin"] == {"name": "admin", "password": None}
    with client(home) as api:
        assert [one["name"] for one in api.get("/collections").json()["collections"]] == ["kept over a restart"]
    killed = ready["processes"].pop("web")
    os.kill(killed, signal.SIGKILL)

    def answers() -> bool:
        try:
            return httpx.get(ready["url"] + "/readyz").status_code == 200
        except httpx.TransportError:
            return False

    wait_until(answers)
    descendants = up.descendants()
    assert {process.pid for process in descendants} >= set(ready["processes"].values())
    up.process.kill()
    up.process.wait()
    wait_until(lambda: running_processes(descendants) == [])
    wait_until(lambda: not record_path(home).exists())


@pytest.mark.timeout(READY_SECONDS + 480)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_stop_during_the_start_leaves_no_processes(home: Path, up: Up, number: int) -> None:
    wait_until(lambda: bool(up.descendants()))
    descendants = up.descendants()
    assert up.stop(number) == 0
    assert running_processes(descendants) == []
    assert not record_path(home).exists()


def test_models_that_cannot_be_had_are_told_where_they_were_started(tmp_path: Path) -> None:
    """Of the hub and on a server; the platform is ready all the same, and the logs of the workers warn."""
    changes = {
        "RETLLM_PRESET": "best",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hub"),
        "RETLLM_EXTRA_SCORERS": "openai+http://127.0.0.1:1/v1#org/away",
    }
    for running in run_up(tmp_path / "home", **changes):
        logs = Path(running.wait_ready()["logs"])
        assert running.process.stdout is not None
        told: dict[str, str] = {}
        while len(told) < 3:
            event = json.loads(running.process.stdout.readline())
            assert event["event"] == "model_missing"
            told[event["model"]] = event["reason"]
        away = told.pop("openai:org/away")
        assert "is away: it can't be reached: nothing listens at its port." in away
        assert set(told) == {"PE-Core-L-14-336/meta", "Qwen/Qwen3-VL-8B-Instruct"}
        for name, reason in told.items():
            assert reason.startswith(f"{name} is not on this machine and could not be downloaded.")
        assert all(reason.endswith("`retllm doctor` says what to do.") for reason in (away, *told.values()))
        written = "".join(path.read_text("utf-8") for path in logs.glob("*.log"))
        assert written.count("model.not_loaded") == 3


def command_line(process: psutil.Process) -> str:
    """Return the command line of a process, or an empty string if it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def start_error(forks: Forks, home: Path, **changes: str) -> str:
    """Run a start that must fail, and return its error message, which is one line."""
    before = set(psutil.pids())
    result = forks.command(["up"], environment(home, **changes))
    assert result.returncode == 2, result.stdout + result.stderr
    lines = [line for line in result.stderr.splitlines() if "[warning" not in line]
    assert len(lines) == 1
    assert "Traceback" not in result.stderr
    assert [one for one in psutil.process_iter() if one.pid not in before and str(home) in command_line(one)] == []
    return lines[0]


def test_the_start_fails_if_the_port_is_in_use(forks: Forks, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        sentence = start_error(forks, tmp_path, RETLLM_PORT=str(port))
    assert sentence == f"retllm: Port {port} on 127.0.0.1 is in use; set RETLLM_PORT to a free one (0 chooses one)."


def test_the_start_fails_if_redis_is_unreachable(forks: Forks, tmp_path: Path) -> None:
    assert start_error(forks, tmp_path, REDIS_URL="redis://:secret@127.0.0.1:1/0") == (
        "retllm: Redis at redis://***@127.0.0.1:1/0 can't be reached (Connection refused): start that server, or "
        "correct REDIS_URL, or unset it to let `retllm up` run its own server."
    )


def test_the_start_fails_if_the_database_is_unreachable(forks: Forks, tmp_path: Path) -> None:
    assert start_error(forks, tmp_path, DATABASE_URL="postgres://me:secret@127.0.0.1:1/name") == (
        "retllm: PostgreSQL at postgresql://me:***@127.0.0.1:1/name can't be reached (Connection refused): start that "
        "server, or correct DATABASE_URL, or unset it to let `retllm up` run its own server."
    )


def test_the_start_fails_if_the_database_has_no_pgvector(forks: Forks, tmp_path: Path, servers: LocalStack) -> None:
    name = f"plain_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(servers.database_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        connection.execute(f"ALTER DATABASE {name} SET extension_control_path = '/no-such-folder'")
        url = sa.make_url(servers.database_url).set(database=name).render_as_string(hide_password=False)
        sentence = start_error(forks, tmp_path, DATABASE_URL=url)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    assert "has no pgvector: install pgvector 0.8.4 or newer on that server, or unset DATABASE_URL" in sentence


def test_the_start_fails_if_the_home_folder_cannot_be_created(forks: Forks, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "can't be created (Not a directory): set RETLLM_HOME" in start_error(forks, tmp_path / "file" / "home")
