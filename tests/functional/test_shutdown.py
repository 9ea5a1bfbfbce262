"""A worker that is told to stop finishes its unit, or hands it back in time for another one."""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.chaos.client import Client
from tests.chaos.plant import Plant

from retllm.db.enums import AttemptOutcome, UnitState
from retllm.jobs.invariants import violations

from .hands import holding, trail, unit, worker

# far longer than the test: what comes back does not come back because the lease ran out
LEASE = {"RETLLM_LEASE_SECONDS": "600"}
STOP_SECONDS = 4.0


@pytest.fixture(scope="module")
def plant() -> Iterator[Plant]:
    with tempfile.TemporaryDirectory(prefix="retllm-stop-") as folder, Plant(Path(folder) / "home", workers=0) as made:
        yield made


@pytest.fixture
def client(plant: Plant) -> Client:
    return Client(plant.url, plant.token)


def _job(client: Client) -> object:
    collection = client.collection()
    client.upload_texts(collection, 3)
    return client.index(collection)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_unit_that_cannot_be_finished_is_handed_back_and_done_by_another(
    plant: Plant, client: Client, number: signal.Signals
) -> None:
    slow = {"CHAOS_PAUSE": "300", "RETLLM_STOP_SECONDS": str(STOP_SECONDS)}
    with worker(plant, "embed", f"slow-{number}", **LEASE, **slow) as first:
        job_id = _job(client)
        held = holding(plant, first)
        with worker(plant, "embed", f"fast-{number}", **LEASE) as second:
            began = time.monotonic()
            first.send_signal(number)
            assert first.wait(STOP_SECONDS + 5) == 0
            took = time.monotonic() - began
            assert client.wait(job_id)["state"] == "succeeded"
            assert unit(plant, held).worker.endswith(f":{second.pid}")
    assert took < STOP_SECONDS + 1, "it is killed when it takes longer"
    assert trail(plant, held) == [(1, AttemptOutcome.RETURNED), (1, AttemptOutcome.COMMITTED)]
    assert violations(plant.sessions, plant.storage, quiet=True) == []


def test_a_unit_that_is_nearly_done_is_finished(plant: Plant, client: Client) -> None:
    with worker(plant, "embed", "steady", **LEASE, CHAOS_PAUSE="1.5", RETLLM_STOP_SECONDS="30") as only:
        job_id = _job(client)
        held = holding(plant, only)
        # waits for the next one that comes
        waiting = _job(client)
        only.send_signal(signal.SIGTERM)
        assert only.wait(20) == 0
        assert unit(plant, held).state is UnitState.DONE
        assert client.job(job_id)["state"] == "succeeded"
        assert client.job(waiting)["state"] == "queued", "it takes nothing more"
    assert trail(plant, held) == [(1, AttemptOutcome.COMMITTED)]


def test_a_worker_without_a_unit_ends_at_once(plant: Plant) -> None:
    with worker(plant, "score", "idle", RETLLM_STOP_SECONDS="60") as idle:
        idle.send_signal(signal.SIGTERM)
        assert idle.wait(10) == 0
