"""The local stack, with small programs in place of the platform's processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil
import pytest

from retllm.errors import StackError
from retllm.settings import Settings
from retllm.stack import LocalStack
from retllm.stack.child import ProcessSpec, log_tail
from retllm.stack.leftovers import record_path, running_stack

pytestmark = pytest.mark.slow

SLEEP = "import time; time.sleep(600)"


def settings(home: Path, **values: object) -> Settings:
    return Settings(home=home, **{"database_url": None, "redis_url": None, **values})  # type: ignore[arg-type]


def standins(program: str = SLEEP) -> Callable[..., Sequence[Sequence[ProcessSpec]]]:
    """Two processes in place of the platform's own."""

    def make(
        settings: Settings,
        parts: object,
        env: Mapping[str, str],
        port: int,
        log_path: Callable[[str], Path],
        run: Path,
    ) -> Sequence[Sequence[ProcessSpec]]:
        argv = (sys.executable, "-S", "-c", program)
        return [[ProcessSpec(name, argv, log_path(name), env)] for name in ("front", "back")]

    return make


def failing(
    settings: Settings, parts: object, env: Mapping[str, str], port: int, log_path: Callable[[str], Path], run: Path
) -> Sequence[Sequence[ProcessSpec]]:
    """One process that exits while it starts."""
    argv = (sys.executable, "-S", "-c", "raise SystemExit(3)")
    return [[ProcessSpec("bad", argv, log_path("bad"), env, ready=lambda: False)]]


def stack(home: Path, program: str = SLEEP, **values: object) -> LocalStack:
    return LocalStack(settings(home, **values), parts={"web"}, stages=standins(program), first_wait=0.01)


def test_a_stack_lists_its_processes_and_stops_all_of_them(tmp_path: Path) -> None:
    with stack(tmp_path, port=0) as running:
        processes = running.processes
        assert list(processes) == ["front", "back"]
        assert all(psutil.pid_exists(pid) for pid in processes.values())
        record = running_stack(tmp_path)
        assert record is not None
        assert [entry.pid for entry in record.processes] == list(processes.values())
        assert record.url == running.url
    assert not any(psutil.pid_exists(pid) for pid in processes.values())
    assert running_stack(tmp_path) is None
    assert not record_path(tmp_path).exists()
    started = psutil.Process().children(recursive=True)
    assert [child for child in started if str(tmp_path) in " ".join(child.cmdline())] == []


def test_a_stopped_stack_can_be_started_again(tmp_path: Path) -> None:
    twice = stack(tmp_path, port=0)
    for _ in range(2):
        twice.start()
        assert twice.processes
        twice.stop()
        twice.stop()
        assert twice.processes == {}


def test_a_second_stack_in_the_same_folder_is_rejected_with_the_process_id_of_the_first(tmp_path: Path) -> None:
    with stack(tmp_path, port=0) as first:
        with pytest.raises(StackError) as caught:
            stack(tmp_path, port=0).start()
        assert caught.value.message == (
            f"Another stack (process {os.getpid()}) is running on {tmp_path}: stop it, or set RETLLM_HOME to another "
            "folder."
        )
        assert all(psutil.pid_exists(pid) for pid in first.processes.values())


def test_a_port_in_use_fails_the_start_before_any_process_runs(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StackError, match=f"Port {port} on 127.0.0.1 is in use; set RETLLM_PORT to a free one"):
            stack(tmp_path, port=port).start()
    with stack(tmp_path, port=port) as running:
        assert running.url == f"http://127.0.0.1:{port}"


def test_the_children_get_the_effective_settings_and_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, until: Callable[..., None]
) -> None:
    monkeypatch.setenv("RETLLM_DATABASE_URL", "postgresql://wrong/name")
    monkeypatch.setenv("RETLLM_DEFAULT_K", "7")
    program = (
        "import json, os, time; "
        "print(json.dumps({k: v for k, v in os.environ.items() if 'RETLLM' in k or k.endswith('_URL')}), flush=True); "
        "time.sleep(600)"
    )
    started = stack(tmp_path, program, port=0, secure_cookies=True, embedder="local-dir:/m")
    with started:
        log = started.log_path("back")
        until(lambda: bool(log_tail(log)))
        environment_of_child = json.loads(log_tail(log)[0])
        assert environment_of_child["RETLLM_PORT"] == started.url.rsplit(":", 1)[1] != "0"
    assert environment_of_child["RETLLM_HOME"] == str(tmp_path)
    assert environment_of_child["RETLLM_EMBEDDER"] == "local-dir:/m"
    assert environment_of_child["RETLLM_DEFAULT_K"] == "7"
    assert environment_of_child["RETLLM_SECURE_COOKIES"] == "True"
    assert not {"RETLLM_DATABASE_URL", "DATABASE_URL", "REDIS_URL"} & set(environment_of_child)


def test_the_log_of_the_previous_start_is_kept(tmp_path: Path, until: Callable[..., None]) -> None:
    for word in ("first", "second", "third"):
        with stack(tmp_path, f"import time; print('{word}', flush=True); time.sleep(600)", port=0) as running:
            until(lambda: bool(log_tail(running.log_path("back"))))
    path = tmp_path / "logs" / "back.log"
    assert log_tail(path) == ["third"]
    assert log_tail(path.with_name("back.log.1")) == ["second"]
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_stack_restarts_a_killed_child(tmp_path: Path, until: Callable[..., None]) -> None:
    with stack(tmp_path, port=0) as running:
        before = running.processes["front"]
        running.kill("front", signal.SIGKILL)
        until(lambda: running.processes["front"] != before)
        assert not running.ended.is_set()


def test_a_repeatedly_crashing_child_ends_the_stack_with_the_reason(tmp_path: Path) -> None:
    with stack(tmp_path, "import time; time.sleep(0.5); print('out of paper')", port=0) as running:
        assert running.ended.wait(60)
        assert running.failure is not None
        assert "was started 5 times" in running.failure.message
        assert running.failure.detail["tail"][-1] == "out of paper"


def test_a_home_folder_that_cannot_be_created_gives_a_one_sentence_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        StackError, match=r"The folder .*/file/home can't be created \(Not a directory\): set RETLLM_HOME"
    ):
        stack(tmp_path / "file" / "home").start()


def test_configured_servers_are_used_and_none_is_started(tmp_path: Path, servers: LocalStack) -> None:
    configured = settings(
        tmp_path, database_url=servers.database_url.replace("+psycopg", ""), redis_url=servers.redis_url, port=0
    )
    with LocalStack(configured, parts={"postgres", "redis"}, stages=standins()) as running:
        assert list(running.processes) == ["front", "back"]
        assert running.redis_url == servers.redis_url
        assert running.database_url.startswith("postgresql+psycopg://")
    assert not (tmp_path / "postgres").exists()


def test_an_unreachable_server_is_reported_before_anything_is_started(tmp_path: Path) -> None:
    broken = LocalStack(settings(tmp_path, redis_url="redis://127.0.0.1:1/0"), parts={"postgres"}, durable=False)
    with pytest.raises(StackError, match="Redis at redis://127"):
        broken.start()
    assert not (tmp_path / "postgres").exists()
    assert running_stack(tmp_path) is None


def test_a_failing_part_stops_the_servers_that_were_started(tmp_path: Path) -> None:
    broken = LocalStack(settings(tmp_path), parts={"postgres", "redis"}, stages=failing, durable=False)
    with pytest.raises(StackError, match=r"bad ended while starting \(exit status 3\)"):
        broken.start()
    assert (tmp_path / "postgres" / "PG_VERSION").exists()
    assert not (tmp_path / "postgres" / "postmaster.pid").exists()
    assert running_stack(tmp_path) is None
    assert broken.processes == {}


def test_unknown_parts_and_missing_addresses_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown parts"):
        LocalStack(settings(tmp_path), parts={"postgress"})
    with pytest.raises(StackError, match="This stack has no database"):
        _ = LocalStack(settings(tmp_path)).database_url


ORPHANS = """
import sys, time
from pathlib import Path
from retllm import logs
from retllm.settings import Settings
from retllm.stack import LocalStack
logs.configure("ERROR")
settings = Settings(home=Path(sys.argv[1]), database_url=None, redis_url=None)
stack = LocalStack(settings, parts={"postgres", "redis"}, durable=False)
stack.start()
print(*stack.processes.values(), flush=True)
time.sleep(600)
"""


def start_orphans(home: Path) -> tuple[subprocess.Popen[str], list[int]]:
    process = subprocess.Popen([sys.executable, "-c", ORPHANS, str(home)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, [int(part) for part in process.stdout.readline().split()]


def gone(pids: list[int]) -> bool:
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)


def test_all_processes_end_if_the_process_of_the_stack_is_killed(tmp_path: Path, until: Callable[..., None]) -> None:
    process, pids = start_orphans(tmp_path)
    backends = [child.pid for pid in pids for child in psutil.Process(pid).children(recursive=True)]
    assert backends
    process.kill()
    process.wait()
    until(lambda: gone(pids + backends))
    until(lambda: not record_path(tmp_path).exists())
    assert "database system is shut down" in log_tail(tmp_path / "logs" / "postgres.log")[-1]


def test_the_next_start_ends_leftover_processes_if_the_guardian_was_killed_too(tmp_path: Path) -> None:
    process, pids = start_orphans(tmp_path)
    for child in psutil.Process(process.pid).children():
        if "retllm.stack.guardian" in child.cmdline():
            child.kill()
    process.kill()
    process.wait()
    assert not gone(pids)
    with LocalStack(settings(tmp_path), parts={"postgres", "redis"}, durable=False) as running:
        assert gone(pids)
        assert not set(pids) & set(running.processes.values())


def test_the_processes_of_the_stack_read_the_settings_of_the_stack(
    servers: LocalStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {
        "extra_embedders": ("local-dir:/models/one, two", "ViT-B-32/openai"),
        "coarse_captions": True,
        "alpha": 0.25,
        "scorer": None,
    }
    monkeypatch.setattr(servers, "settings", servers.settings.model_copy(update=chosen))
    environment = servers.environment()
    monkeypatch.setattr(os, "environ", environment)
    read = Settings()
    assert {name: getattr(read, name) for name in chosen} == chosen
