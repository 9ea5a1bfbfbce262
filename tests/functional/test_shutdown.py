"""A worker that gets a stop signal finishes its unit, or returns it for another worker before its time is over."""

from __future__ import annotations

import re
import signal
import socket
import time
from uuid import UUID

import psutil
import pytest
import sqlalchemy as sa
from tests.chaos.client import Client
from tests.chaos.platform import Platform
from tests.functional.worker_control import attempts, unit, wait_for_unit, worker
from tests.waiting import wait_until

from retllm.db.enums import AttemptOutcome, UnitState
from retllm.db.operations import Worker
from retllm.operations import totals
from retllm.queue.audit import violations

pytestmark = pytest.mark.timeout(900)

# far longer than the test, so that no unit is taken back because its lease expired
LEASE = {"RETLLM_LEASE_SECONDS": "3600"}
ENDLESS = {"CHAOS_PAUSE": "3600"}
STOP_SECONDS = 4.0
# seconds for steps that are immediate on an idle machine
TIMEOUT_SECONDS = 120
ENDED = "retllm_attempts_ended_total"


@pytest.fixture
def client(platform: Platform) -> Client:
    return Client(platform.url, platform.token)


def _job(client: Client) -> UUID:
    collection = client.collection()
    client.upload_texts(collection, 3)
    return client.index(collection)


def _attempt_count(platform: Platform, outcome: str) -> float:
    with platform.sessions() as session:
        return totals.read(session).get(totals.key_of(ENDED, {"stage": "embed", "outcome": outcome}), 0)


def _is_marked_stopped(platform: Platform, pid: int) -> bool:
    with platform.sessions() as session:
        name = f"{socket.gethostname()}:{pid}"
        return session.scalar(sa.select(Worker.stopped_at).where(Worker.name == name)) is not None


def test_a_unit_that_cannot_be_finished_is_returned_and_done_by_another_worker(
    platform: Platform, client: Client
) -> None:
    returned = _attempt_count(platform, "returned")
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
        held = wait_for_unit(platform, first)
        with worker(platform, "embed", "fast", **LEASE) as second:
            began = time.monotonic()
            first.send_signal(signal.SIGTERM)
            first.send_signal(signal.SIGTERM)
            assert first.wait(TIMEOUT_SECONDS) == 0
            took = time.monotonic() - began
            assert client.wait(job_id)["state"] == "succeeded"
            assert str(unit(platform, held).worker).endswith(f":{second.pid}")
        assert _is_marked_stopped(platform, first.pid)
    (logged,) = re.findall(r"worker\.stopping .*seconds=([\d.]+)", (platform.logs / "slow.log").read_text())
    assert STOP_SECONDS / 2 < float(logged) < STOP_SECONDS, (
        "the remaining time is for returning the unit before the worker is killed"
    )
    assert took > float(logged), "the worker must first try to finish its unit"
    assert attempts(platform, held) == [(1, AttemptOutcome.RETURNED), (1, AttemptOutcome.COMMITTED)]
    assert _attempt_count(platform, "returned") == returned + 1
    assert violations(platform.sessions, platform.storage, quiet=True) == []


@pytest.mark.parametrize(
    "signals",
    [(signal.SIGQUIT,), (signal.SIGTERM, signal.SIGQUIT), (signal.SIGINT, signal.SIGINT)],
    ids=lambda of: "+".join(one.name for one in of),
)
def test_a_quit_signal_or_a_second_stop_signal_returns_the_unit_at_once(
    platform: Platform, client: Client, signals: tuple[signal.Signals, ...]
) -> None:
    name = "stopped-" + "-".join(number.name for number in signals)
    with worker(platform, "embed", name, RETLLM_STOP_SECONDS="600", **LEASE, **ENDLESS) as stopped:
        job_id = _job(client)
        held = wait_for_unit(platform, stopped)
        first, *others = signals
        stopped.send_signal(first)
        if others:
            # two identical signals in quick succession are delivered as one
            wait_until(lambda: "worker.stopping" in (platform.logs / f"{name}.log").read_text())
        for number in others:
            stopped.send_signal(number)
        assert stopped.wait(TIMEOUT_SECONDS) == 0
    found = unit(platform, held)
    assert (found.state, found.attempt, found.error) == (UnitState.READY, 0, None)
    assert attempts(platform, held) == [(1, AttemptOutcome.RETURNED)]
    client.cancel(job_id)


def test_a_stopping_worker_finishes_its_unit_and_claims_no_other(platform: Platform, client: Client) -> None:
    with worker(platform, "embed", "steady", **LEASE, RETLLM_STOP_SECONDS="600") as only:
        # it stops in the middle of its first unit
        platform.order("work", "stop")
        job_id = _job(client)
        held = wait_for_unit(platform, only)
        wait_until(lambda: psutil.Process(only.pid).status() == psutil.STATUS_STOPPED)
        # this job stays queued
        waiting = _job(client)
        only.send_signal(signal.SIGINT)
        only.send_signal(signal.SIGCONT)
        assert only.wait(TIMEOUT_SECONDS) == 0
        assert unit(platform, held).state is UnitState.DONE
        assert client.job(job_id)["state"] == "succeeded"
        assert client.job(waiting)["state"] == "queued", "a stopping worker must claim no other unit"
    assert attempts(platform, held) == [(1, AttemptOutcome.COMMITTED)]
    client.cancel(waiting)


def test_an_idle_worker_exits_at_once(platform: Platform) -> None:
    with worker(platform, "score", "idle", RETLLM_STOP_SECONDS="600") as idle:
        idle.send_signal(signal.SIGTERM)
        assert idle.wait(TIMEOUT_SECONDS) == 0
