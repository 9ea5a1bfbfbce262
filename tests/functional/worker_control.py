"""Starts and stops the workers of a platform."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from uuid import UUID

import sqlalchemy as sa
from tests.chaos.platform import ROOT, Platform

from retllm.db.enums import AttemptOutcome
from retllm.db.jobs import Attempt, Unit
from retllm.stack import commands

Worker = subprocess.Popen[bytes]

_STARTING_SECONDS = 180


@contextlib.contextmanager
def worker(
    platform: Platform, kind: str, name: str, *, app: str = "tests.chaos.worker", **env: str
) -> Iterator[Worker]:
    """Run a worker for the queues of ``kind`` with fast stand-in models; yield it when ready and kill it at the end.

    Args:
        app: the module of its Celery application.
        env: additional environment variables.
    """
    arguments = list(commands.python(commands.worker(kind)))
    arguments[arguments.index("--app") + 1] = app
    path = os.pathsep.join(str(ROOT / folder) for folder in (".", "platform", "workers", "web"))
    ready = platform.home / f"{name}.ready"
    environment = platform.environment() | {"PYTHONPATH": path, commands.READY_VARIABLE: str(ready)} | env
    with (platform.logs / f"{name}.log").open("ab") as log:
        started = subprocess.Popen(
            [*arguments, "--hostname", f"{name}@hands", "--include", "retllm.stack.ready"],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + _STARTING_SECONDS
        while not ready.exists():
            assert started.poll() is None, (platform.logs / f"{name}.log").read_text()
            assert time.monotonic() < deadline, (platform.logs / f"{name}.log").read_text()
            time.sleep(0.05)
        yield started
    finally:
        started.kill()
        started.wait()


def wait_for_unit(platform: Platform, one: Worker, seconds: float = 120) -> UUID:
    """Wait until a worker holds a unit and return the unit's ID."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for key, pid in platform.leased():
            if pid == str(one.pid):
                return key
        time.sleep(0.02)
    raise AssertionError(f"the worker {one.pid} claimed no unit")


def attempts(platform: Platform, unit_id: UUID) -> list[tuple[int, AttemptOutcome | None]]:
    """Return the number and the outcome of every attempt at a unit."""
    with platform.sessions() as session:
        rows = session.execute(
            sa.select(Attempt.number, Attempt.outcome).where(Attempt.unit_id == unit_id).order_by(Attempt.token)
        )
        return [(number, outcome) for number, outcome in rows]


def unit(platform: Platform, unit_id: UUID) -> Unit:
    """Return the current state of a unit."""
    with platform.sessions() as session:
        return session.get_one(Unit, unit_id)
