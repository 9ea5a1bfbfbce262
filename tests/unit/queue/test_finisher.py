"""A worker stores the results of one unit while it does the next one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from uuid import UUID

import pytest
from tests.unit.stand_ins import FakeEmbedder

from retllm.db.enums import UnitState
from retllm.db.jobs import Unit
from retllm.db.session import transaction
from retllm.indexing.submit import submit_index
from retllm.indexing.worker import embed_unit
from retllm.queue.claim import complete
from retllm.queue.worker import Finisher, LastStep, LeasedUnit, WorkerContext, current_claims, run_unit

# longer than any wait takes on a busy machine
DEADLINE = 60


@pytest.fixture
def units(world) -> list[UUID]:
    world.add_texts("a", "b", "c", "d", "e", "f")
    with transaction(world.sessions) as session:
        job = submit_index(session, world.user, world.collection_id, world.settings).job
    return [unit.id for unit in world.units(job.id)]


def state(world, unit_id: UUID) -> UnitState:
    with world.sessions() as session:
        return session.get_one(Unit, unit_id).state


def doing(wait: Callable[[], object]) -> Callable[[WorkerContext, LeasedUnit], LastStep]:
    def function(context: WorkerContext, held: LeasedUnit) -> LastStep:
        def last() -> list:
            wait()
            return complete(context.sessions, held.claim, lambda _session, _job: [])

        return last

    return function


def test_the_next_unit_is_done_while_the_results_of_the_last_are_stored(
    context: WorkerContext, world, units: list[UUID]
) -> None:
    stored, finisher = threading.Event(), Finisher()

    def embed(context: WorkerContext, held: LeasedUnit) -> LastStep:
        if held.claim.seq:
            assert {claim.unit_id for claim in current_claims()} == set(units[:2])
            assert state(world, units[0]) is UnitState.LEASED
            stored.set()
        return embed_unit(context, held, lambda _: FakeEmbedder())

    first = doing(lambda: stored.wait(DEADLINE))
    assert run_unit(context, units[0], first, finisher)
    assert run_unit(context, units[1], embed, finisher)
    finisher.wait()
    assert [state(world, unit) for unit in units[:2]] == [UnitState.DONE] * 2
    assert current_claims() == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lease")]


def test_at_most_one_unit_is_ended_at_a_time(context: WorkerContext, world, units: list[UUID]) -> None:
    finisher, ending, most = Finisher(), [], []

    def wait() -> None:
        ending.append(1)
        most.append(len(ending))
        ending.pop()

    for unit in units:
        assert run_unit(context, unit, doing(wait), finisher)
    finisher.wait()
    assert most == [1] * 3
    assert [state(world, unit) for unit in units] == [UnitState.DONE] * 3


def test_a_last_step_that_fails_is_recorded_as_a_failed_attempt(
    context: WorkerContext, world, units: list[UUID]
) -> None:
    def fail() -> None:
        raise OSError("the disk is full")

    finisher = Finisher()
    assert run_unit(context, units[0], doing(fail), finisher)
    finisher.wait()
    with world.sessions() as session:
        unit = session.get_one(Unit, units[0])
    assert (unit.state, unit.attempt, unit.error) == (UnitState.READY, 1, "OSError: the disk is full")
    assert current_claims() == []


def test_the_lease_is_renewed_until_the_results_are_stored(context: WorkerContext, world, units: list[UUID]) -> None:
    finisher, seen = Finisher(), []

    def look() -> None:
        seen.extend(thread.name for thread in threading.enumerate() if thread.name == f"lease-{units[0]}")

    assert run_unit(context, units[0], doing(look), finisher)
    finisher.wait()
    assert seen
