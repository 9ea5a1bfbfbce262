"""A worker process reports its queues, its models and its stop."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from retllm.db.session import make_engine
from retllm.stack import commands

pytestmark = pytest.mark.slow

_TIMEOUT = 60.0


def test_a_worker_of_an_unknown_scorer_ends_at_once_and_says_which_there_are(
    fresh_database: str, redis_url: str, tmp_path: Path
) -> None:
    environment = os.environ | {"DATABASE_URL": fresh_database, "REDIS_URL": redis_url, "RETLLM_HOME": str(tmp_path)}
    command = commands.python(commands.worker("score", "score:other"))
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT)
    assert ended.returncode == 2
    assert "The scorer other is not configured. The scorers are mllm." in ended.stderr


@pytest.fixture(params=["local", "on a server"])
def worker(
    request: pytest.FixtureRequest, fresh_database: str, redis_url: str, tmp_path: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of the queue ``score`` whose model does not exist, here or on a server."""
    folder = str(tmp_path / "nothing")
    environment = os.environ | {
        "DATABASE_URL": fresh_database,
        "REDIS_URL": redis_url,
        "RETLLM_HOME": str(tmp_path),
        "RETLLM_SCORER": folder if request.param == "local" else "rerank+http://127.0.0.1:9#nothing",
        "RETLLM_DEVICE": "cpu",
    }
    process = subprocess.Popen(commands.python(commands.worker("score")), env=environment, stderr=subprocess.DEVNULL)
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize(
    ("worker", "device", "name"),
    [("local", "cpu", "nothing"), ("on a server", "server", "rerank:nothing")],
    indirect=["worker"],
)
def test_a_worker_process_reports_itself_from_its_start_until_it_stops(
    worker: subprocess.Popen[bytes], fresh_database: str, device: str, name: str
) -> None:
    engine = make_engine(fresh_database)

    def row() -> Any:
        with engine.connect() as connection:
            return connection.execute(sa.text("SELECT * FROM workers")).one_or_none()

    def until(condition: Any) -> Any:
        end = time.monotonic() + _TIMEOUT
        while not condition(found := row()):
            assert time.monotonic() < end, found
            assert worker.poll() is None or found, "the worker ended"
            time.sleep(0.05)
        return found

    # a heartbeat follows the load that has failed
    reported = until(lambda found: found and found.models[0]["error"])
    assert reported.name == f"{socket.gethostname()}:{worker.pid}"
    assert (reported.queues, reported.device, reported.stopped_at) == (["score"], device, None)
    assert reported.usage["resident_bytes"] > 1_000_000
    assert reported.usage["gpu_total_bytes"] is None
    (model,) = reported.models
    assert (model["name"], model["loaded"], model["revision"]) == (name, False, None)
    assert "nothing" in model["error"]
    worker.send_signal(signal.SIGTERM)
    until(lambda found: found.stopped_at is not None)
    worker.wait(60)
    engine.dispose()
