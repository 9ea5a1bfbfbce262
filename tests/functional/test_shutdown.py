"""A worker that is told to stop finishes its unit, or hands it back in time for another one."""

from __future__ import annotations

import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy as sa
from tests.chaos.client import Client
from tests.chaos.plant import Plant

from retllm.db.enums import AttemptOutcome, UnitState
from retllm.db.operations import Worker
from retllm.operations import totals
from retllm.queue.audit import violations

from .hands import holding, trail, unit, worker

# far longer than the test: what comes back does not come back because the lease ran out
LEASE = {"RETLLM_LEASE_SECONDS": "600"}
ENDLESS = {"CHAOS_PAUSE": "300"}
STOP_SECONDS = 4.0
ENDED = "retllm_attempts_ended_total"


@pytest.fixture(scope="module")
def plant() -> Iterator[Plant]:
    with tempfile.TemporaryDirectory(prefix="retllm-stop-") as folder, Plant(Path(folder) / "home", workers=0) as made:
        yield made


@pytest.fixture
def client(plant: Plant) -> Client:
    return Client(plant.url, plant.token)


def _job(client: Client) -> UUID:
    collection = client.collection()
    client.upload_texts(collection, 3)
    return client.index(collection)


def _counted(plant: Plant, outcome: str) -> float:
    with plant.sessions() as session:
        return totals.read(session).get(totals.key_of(ENDED, {"stage": "embed", "outcome": outcome}), 0)


def _said_goodbye(plant: Plant, pid: int) -> bool:
    with plant.sessions() as session:
        name = f"{socket.gethostname()}:{pid}"
        return session.scalar(sa.select(Worker.stopped_at).where(Worker.name == name)) is not None


def test_a_unit_that_cannot_be_finished_is_handed_back_and_done_by_another(plant: Plant, client: Client) -> None:
    returned = _counted(plant, "returned")
    with worker(
        plant,
        "embed",
        "slow",
        app="tests.functional.real_worker",
        RETLLM_STOP_SECONDS=str(STOP_SECONDS),
        **LEASE,
        **ENDLESS,
    ) as first:
        job_id = _job(client)
        held = holding(plant, first)
        with worker(plant, "embed", "fast", **LEASE) as second:
            began = time.monotonic()
            first.send_signal(signal.SIGTERM)
            first.send_signal(signal.SIGTERM)
            assert first.wait(STOP_SECONDS + 5) == 0
            took = time.monotonic() - began
            assert client.wait(job_id)["state"] == "succeeded"
            assert str(unit(plant, held).worker).endswith(f":{second.pid}")
        assert _said_goodbye(plant, first.pid)
    assert STOP_SECONDS / 2 < took < STOP_SECONDS + 1, "it tries to finish, and is not killed before it ends"
    assert trail(plant, held) == [(1, AttemptOutcome.RETURNED), (1, AttemptOutcome.COMMITTED)]
    assert _counted(plant, "returned") == returned + 1
    assert violations(plant.sessions, plant.storage, quiet=True) == []


@pytest.mark.parametrize(
    "signals",
    [(signal.SIGQUIT,), (signal.SIGTERM, signal.SIGQUIT), (signal.SIGINT, signal.SIGINT)],
    ids=lambda of: "+".join(one.name for one in of),
)
def test_whoever_is_in_a_hurry_gets_the_unit_back_at_once(
    plant: Plant, client: Client, signals: tuple[signal.Signals, ...]
) -> None:
    with worker(
        plant, "embed", f"hurried-{len(signals)}-{signals[0].name}", RETLLM_STOP_SECONDS="60", **LEASE, **ENDLESS
    ) as hurried:
        job_id = _job(client)
        held = holding(plant, hurried)
        for number in signals:
            hurried.send_signal(number)
            # two of a kind at once are one
            time.sleep(0.2)
        assert hurried.wait(10) == 0
    found = unit(plant, held)
    assert (found.state, found.attempt, found.error) == (UnitState.READY, 0, None)
    assert trail(plant, held) == [(1, AttemptOutcome.RETURNED)]
    client.cancel(job_id)


def test_a_unit_that_is_nearly_done_is_finished(plant: Plant, client: Client) -> None:
    with worker(plant, "embed", "steady", **LEASE, CHAOS_PAUSE="1.5", RETLLM_STOP_SECONDS="30") as only:
        job_id = _job(client)
        held = holding(plant, only)
        # waits for the next one that comes
        waiting = _job(client)
        only.send_signal(signal.SIGINT)
        assert only.wait(20) == 0
        assert unit(plant, held).state is UnitState.DONE
        assert client.job(job_id)["state"] == "succeeded"
        assert client.job(waiting)["state"] == "queued", "it takes nothing more"
    assert trail(plant, held) == [(1, AttemptOutcome.COMMITTED)]
    client.cancel(waiting)


def test_a_worker_without_a_unit_ends_at_once(plant: Plant) -> None:
    with worker(plant, "score", "idle", RETLLM_STOP_SECONDS="60") as idle:
        idle.send_signal(signal.SIGTERM)
        assert idle.wait(10) == 0
