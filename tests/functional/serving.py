"""The app in its real server, gunicorn with threads, with a real media worker, as the Procfile starts them."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import httpx
import psutil
import pytest

from retllm.db.session import make_sessions, transaction
from retllm.db.tables import new_id
from retllm.identity import accounts, tokens
from retllm.identity.actor import Actor
from retllm.settings import Settings
from retllm.stack import commands

THREADS = 8
_REDIS_DATABASES = itertools.cycle(range(1, 16))


@dataclass
class Server:
    """A running server and a token for it."""

    address: str
    token: str
    user_id: UUID
    process: subprocess.Popen[bytes]
    media: subprocess.Popen[bytes]
    home: Path

    def client(self) -> httpx.Client:
        """Return a client of its API."""
        return httpx.Client(
            base_url=f"{self.address}/api/v1", headers={"Authorization": f"Bearer {self.token}"}, timeout=120
        )

    def collection(self, name: str) -> str:
        """Create a collection and return its ID."""
        with self.client() as client:
            answer = client.post("/collections", json={"name": name})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def processes(self) -> list[psutil.Process]:
        """Return the processes of the web server and of the media worker, with their decoders."""
        mains = [psutil.Process(one.pid) for one in (self.process, self.media)]
        return mains + [child for main in mains for child in main.children(recursive=True)]

    def memory(self) -> int:
        """Return the resident memory of all its processes in bytes."""
        return sum(one.memory_info().rss for one in self.processes())

    def stored_files(self) -> set[str]:
        """Return the keys of the files in its storage, including incomplete ones."""
        root = self.home / "media"
        return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}

    def temporary_files(self) -> list[str]:
        """Return its temporary files, including open files that are already unlinked."""
        found = [str(path) for path in (self.home / "tmp").rglob("*") if path.is_file()]
        for process in self.processes():
            for link in Path(f"/proc/{process.pid}/fd").glob("*"):
                try:
                    opened = str(link.readlink())
                except OSError:  # it was closed in the meantime
                    continue
                # gunicorn's own heartbeat files exist from the start
                if opened.startswith(str(self.home / "tmp")) and "/wgunicorn-" not in opened:
                    found.append(opened)
        return [one for one in found if "/wgunicorn-" not in one]


@contextmanager
def serving(database_url: str, redis_url: str, home: Path, **settings: object) -> Iterator[Server]:
    """Run a server with its files in ``home``; ``settings`` are variables without the prefix RETLLM_."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sessions = make_sessions(database_url)
    with transaction(sessions) as session:
        user = accounts.create_user(session, f"server-{new_id()}", "a long password")
        _, token = tokens.issue(session, tokens.token_key(Settings(home=home)), Actor.unlimited(user), "server")
    sessions.kw["bind"].dispose()
    (home / "tmp").mkdir()
    environment = {
        **os.environ,
        "RETLLM_HOME": str(home),
        "DATABASE_URL": database_url,
        # of its own, since another server's worker would look for the files elsewhere
        "REDIS_URL": f"{redis_url.removesuffix('/0')}/{next(_REDIS_DATABASES)}",
        "RETLLM_PORT": str(port),
        "RETLLM_WEB_THREADS": str(THREADS),
        "TMPDIR": str(home / "tmp"),
        **{f"RETLLM_{name.upper()}": str(value) for name, value in settings.items()},
    }
    command = [sys.executable, "-m", "gunicorn", "--config", "python:retllm.stack.gunicorn_conf", "retllm_web.wsgi:app"]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=home)
        worker = [sys.executable, *commands.worker("media")]
        media = subprocess.Popen(worker, env=environment, stdout=log, stderr=log, cwd=home)
    try:
        _wait(f"http://127.0.0.1:{port}/readyz", process, home / "log")
        yield Server(f"http://127.0.0.1:{port}", token, user.id, process, media, home)
    finally:
        for one in (process, media):
            one.terminate()
        for one in (process, media):
            one.wait(120)


def _wait(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            if httpx.get(address).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    pytest.fail(f"not ready: {log.read_text()}")
