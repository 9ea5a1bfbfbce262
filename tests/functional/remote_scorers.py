"""A server of a scorer as a process, an installation that uses it, and what tests of both share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from tests.waiting import wait_until

from retllm.cli.client import Api, open_api
from retllm.cli.up import prepare_client
from retllm.settings import Settings
from retllm.stack import LocalStack
from retllm.stack.client_file import read_client

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def server(port: int, *arguments: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run the server as a process; yield it when it answers."""
    process = subprocess.Popen([sys.executable, "-m", "tests.scoring_server", *map(str, (port, *arguments))], cwd=ROOT)

    def answers() -> bool:
        assert process.poll() is None
        try:
            return httpx.get(f"http://127.0.0.1:{port}/v1/models").status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_until(answers, "the server of the scorer does not start")
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def installation(home: Path, **scorers: Any) -> Iterator[LocalStack]:
    """Run an installation of the demo with these settings of scorers; its units have two candidates."""
    given = {"home": home, "database_url": None, "redis_url": None, "port": 0, "preset": "demo"}
    units = {"torch_threads": 1, "score_unit_candidates": 2, "backoff_seconds": 0.5}
    with LocalStack(Settings.model_validate({**given, **units, **scorers}), durable=False) as running:
        yield running


def client(stack: LocalStack) -> Api:
    """Return a client with the first account of an installation."""
    prepare_client(stack)
    return open_api(stack.url, read_client(stack.home)["token"])


def upload(api: Api, folder: Path, names: list[str]) -> str:
    """Upload files into a new collection, and return its key when they are indexed."""
    collection = api.call("POST", "/collections", json={"name": "scenes"})["id"]
    files = [("file", (name, (folder / name).read_bytes())) for name in names]
    job = api.call("POST", f"/collections/{collection}/items", files=files)["job_id"]
    assert api.watch(job, lambda _: None)["state"] == "succeeded"
    return str(collection)
