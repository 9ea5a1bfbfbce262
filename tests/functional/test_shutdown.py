"""A worker that is told to stop finishes its unit, or hands it back in time for another one."""

from __future__ import annotations

import re
import signal
import socket
import time
from collections.abc import Callable
from uuid import UUID

import psutil
import pytest
import sqlalchemy as sa
from tests.chaos.client import Client
from tests.chaos.platform import Platform
from tests.functional.worker_control import holding, trail, unit, worker

from retllm.db.enums import AttemptOutcome, UnitState
from retllm.db.operations import Worker
from retllm.operations import totals
from retllm.queue.audit import violations

pytestmark = pytest.mark.timeout(900)

# far longer than the test: what comes back does not come back because the lease ran out
LEASE = {"RETLLM_LEASE_SECONDS": "3600"}
ENDLESS = {"CHAOS_PAUSE": "3600"}
STOP_SECONDS = 4.0
# for what takes no time at all on an idle machine
PATIENCE = 120
ENDED = "retllm_attempts_ended_total"


@pytest.fixture
def client(platform: Platform) -> Client:
    return Client(platform.url, platform.token)


def _job(client: Client) -> UUID:
    collection = client.collection()
    client.upload_texts(collection, 3)
    return client.index(collection)


def _counted(platform: Platform, outcome: str) -> float:
    with platform.sessions() as session:
        return totals.read(session).get(totals.key_of(ENDED, {"stage": "embed", "outcome": outcome}), 0)


def _wait(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


def _said_goodbye(platform: Platform, pid: int) -> bool:
    with platform.sessions() as session:
        name = f"{socket.gethostname()}:{pid}"
        return session.scalar(sa.select(Worker.stopped_at).where(Worker.name == name)) is not None


def test_a_unit_that_cannot_be_finished_is_handed_back_and_done_by_another(platform: Platform, client: Client) -> None:
    returned = _counted(platform, "returned")
    with worker(
        platform,
        "embed",
        "slow",
        app="tests.functional.real_worker",
        RETLLM_STOP_SECONDS=str(STOP_SECONDS),
        **LEASE,
        **ENDLESS,
    ) as first:
        job_id = _job(client)
        held = holding(platform, first)
        with worker(platform, "embed", "fast", **LEASE) as second:
            began = time.monotonic()
            first.send_signal(signal.SIGTERM)
            first.send_signal(signal.SIGTERM)
            assert first.wait(PATIENCE) == 0
            took = time.monotonic() - began
            assert client.wait(job_id)["state"] == "succeeded"
            assert str(unit(platform, held).worker).endswith(f":{second.pid}")
        assert _said_goodbye(platform, first.pid)
    (begun,) = re.findall(r"worker\.stopping .*seconds=([\d.]+)", (platform.logs / "slow.log").read_text())
    assert STOP_SECONDS / 2 < float(begun) < STOP_SECONDS, "the rest is for handing it back, before it is killed"
    assert took > float(begun), "it tries to finish"
    assert trail(platform, held) == [(1, AttemptOutcome.RETURNED), (1, AttemptOutcome.COMMITTED)]
    assert _counted(platform, "returned") == returned + 1
    assert violations(platform.sessions, platform.storage, quiet=True) == []


@pytest.mark.parametrize(
    "signals",
    [(signal.SIGQUIT,), (signal.SIGTERM, signal.SIGQUIT), (signal.SIGINT, signal.SIGINT)],
    ids=lambda of: "+".join(one.name for one in of),
)
def test_whoever_is_in_a_hurry_gets_the_unit_back_at_once(
    platform: Platform, client: Client, signals: tuple[signal.Signals, ...]
) -> None:
    name = "hurried-" + "-".join(number.name for number in signals)
    with worker(platform, "embed", name, RETLLM_STOP_SECONDS="600", **LEASE, **ENDLESS) as hurried:
        job_id = _job(client)
        held = holding(platform, hurried)
        first, *others = signals
        hurried.send_signal(first)
        if others:
            # two of a kind at once are one
            _wait(lambda: "worker.stopping" in (platform.logs / f"{name}.log").read_text())
        for number in others:
            hurried.send_signal(number)
        assert hurried.wait(PATIENCE) == 0
    found = unit(platform, held)
    assert (found.state, found.attempt, found.error) == (UnitState.READY, 0, None)
    assert trail(platform, held) == [(1, AttemptOutcome.RETURNED)]
    client.cancel(job_id)


def test_a_unit_that_is_nearly_done_is_finished(platform: Platform, client: Client) -> None:
    with worker(platform, "embed", "steady", **LEASE, RETLLM_STOP_SECONDS="600") as only:
        # it stands still within its first unit
        platform.order("work", "stop")
        job_id = _job(client)
        held = holding(platform, only)
        _wait(lambda: psutil.Process(only.pid).status() == psutil.STATUS_STOPPED)
        # waits for the next one that comes
        waiting = _job(client)
        only.send_signal(signal.SIGINT)
        only.send_signal(signal.SIGCONT)
        assert only.wait(PATIENCE) == 0
        assert unit(platform, held).state is UnitState.DONE
        assert client.job(job_id)["state"] == "succeeded"
        assert client.job(waiting)["state"] == "queued", "it takes nothing more"
    assert trail(platform, held) == [(1, AttemptOutcome.COMMITTED)]
    client.cancel(waiting)


def test_a_worker_without_a_unit_ends_at_once(platform: Platform) -> None:
    with worker(platform, "score", "idle", RETLLM_STOP_SECONDS="600") as idle:
        idle.send_signal(signal.SIGTERM)
        assert idle.wait(PATIENCE) == 0
