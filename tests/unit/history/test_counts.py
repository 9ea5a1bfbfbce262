"""Attempts, ends, lost leases and refused writes are counted exactly once."""

from __future__ import annotations

from uuid import UUID

import pytest
import sqlalchemy as sa
from tests.unit.stand_ins import SilentNotifier

from retllm.db.enums import Stage, UnitState
from retllm.db.jobs import Unit
from retllm.db.session import transaction
from retllm.errors import InvalidInput, JobCancelled
from retllm.indexing.submit import submit_index
from retllm.metrics import REGISTRY
from retllm.queue.claim import complete
from retllm.queue.dispatcher import Dispatcher
from retllm.queue.routing import Notification
from retllm.queue.worker import LeasedUnit, WorkerContext, run_unit

COUNTS = ("attempts_total", "leases_lost_total", "fenced_writes_total", "unit_seconds_count")
OUTCOMES = ("done", "failed", "stale", "cancelled", "returned")


class Since:
    """The counters of the stage ``embed`` that have changed since its creation, with the differences."""

    def __init__(self) -> None:
        self._before = self._now()

    def _now(self) -> dict[str, float]:
        found = {name: REGISTRY.get_sample_value(f"retllm_{name}", {"stage": "embed"}) or 0 for name in COUNTS}
        for outcome in OUTCOMES:
            labels = {"stage": "embed", "outcome": outcome}
            found[outcome] = REGISTRY.get_sample_value("retllm_attempts_ended_total", labels) or 0
        return found

    def __call__(self) -> dict[str, float]:
        return {name: value - self._before[name] for name, value in self._now().items() if value != self._before[name]}


@pytest.fixture
def unit_id(world) -> UUID:
    world.add_texts("red circle")
    with transaction(world.sessions) as session:
        job = submit_index(session, world.user, world.collection_id, world.settings).job
    return world.units(job.id)[0].id


def _nothing(context: WorkerContext, held: LeasedUnit) -> list[Notification]:
    return complete(context.sessions, held.claim, lambda _session, _job: [])


def _run_out(world, unit_id: UUID) -> None:
    with transaction(world.sessions) as session:
        session.execute(sa.update(Unit).where(Unit.id == unit_id).values(lease_until=sa.func.now()))


def test_a_done_unit_counts_as_one_attempt_with_its_duration(world, context: WorkerContext, unit_id: UUID) -> None:
    since = Since()
    assert run_unit(context, unit_id, _nothing)
    assert since() == {"attempts_total": 1, "done": 1, "unit_seconds_count": 1}


def test_a_repeated_notification_does_not_count_as_an_attempt(world, context: WorkerContext, unit_id: UUID) -> None:
    run_unit(context, unit_id, _nothing)
    since = Since()
    assert not run_unit(context, unit_id, _nothing)
    assert since() == {}


def test_failed_and_cancelled_attempts_are_counted_separately(world, context: WorkerContext, unit_id: UUID) -> None:
    since = Since()

    def broken(_context: WorkerContext, _held: LeasedUnit) -> list[Notification]:
        raise InvalidInput("No.")

    def cancelled(_context: WorkerContext, _held: LeasedUnit) -> list[Notification]:
        raise JobCancelled

    run_unit(context, unit_id, cancelled)
    run_unit(context, unit_id, broken)
    assert since() == {"attempts_total": 2, "failed": 1, "cancelled": 1, "unit_seconds_count": 2}


def test_a_worker_that_lost_its_lease_is_fenced_and_the_dispatcher_counts_the_loss(
    world, context: WorkerContext, unit_id: UUID
) -> None:
    since = Since()

    def slow(context: WorkerContext, held: LeasedUnit) -> list[Notification]:
        _run_out(world, unit_id)
        dispatcher = Dispatcher(world.sessions, SilentNotifier(), world.settings)
        assert (dispatcher.rescue(), dispatcher.rescue()) == (1, 0)
        return _nothing(context, held)

    run_unit(context, unit_id, slow)
    assert since() == {
        "attempts_total": 1,
        "leases_lost_total": 1,
        "fenced_writes_total": 1,
        "stale": 1,
        "unit_seconds_count": 1,
    }
    with world.sessions() as session:
        unit = session.get_one(Unit, unit_id)
        assert (unit.stage, unit.state) == (Stage.EMBED, UnitState.READY)
