"""A search that no retry can complete says so wherever a retry is offered otherwise."""

from __future__ import annotations

from uuid import UUID

import pytest
import sqlalchemy as sa
from tests.unit.job_world import World
from tests.unit.search.pools import ready_units
from tests.unit.stand_ins import FakeEmbedder, FakeScorer, fine_unit, index, search, view_of

from retllm.db.enums import JobState, Stage, UnitState
from retllm.db.jobs import Job, Unit
from retllm.db.session import transaction
from retllm.errors import Obsolete
from retllm.history import control
from retllm.history.control import NO_HELP, BulkAction
from retllm.operations import failures, stuck
from retllm.operations.failures import FailureFilters
from retllm.queue.audit import violations
from retllm.queue.routing import routing_of
from retllm.queue.worker import WorkerContext, run_unit
from retllm.search.coarse_worker import coarse_unit


@pytest.fixture
def changed(context: WorkerContext, world: World) -> UUID:
    """A search whose scorer changed after its first unit."""
    world.add_texts("red circle", "red square", "red moon", "red tree")
    index(context, world)
    key = search(world, text="red circle", k=4)
    run_unit(context, world.units(key)[0].id, lambda c, held: coarse_unit(c, held, lambda _: FakeEmbedder()))
    for version in ("v1", "v2"):
        scorer = FakeScorer(lambda _: (0.7, 0.1), version)
        run_unit(context, ready_units(world, key)[0], lambda c, held, scorer=scorer: fine_unit(c, held, scorer))
    return key


def test_its_error_is_told_once_and_names_no_item(world: World, changed: UUID) -> None:
    view = view_of(world, changed)
    assert (view.job.state, view.job.final) == (JobState.PARTIAL, True)
    (error,) = view.job.errors
    assert error.error.startswith("The scorer changed while this search was running")
    assert view.job.error == error.error
    assert [row.error for row in view.candidates if row.error] == [error.error] * 2
    assert violations(world.sessions) == []


def test_a_retry_of_it_is_refused_with_the_reason(world: World, changed: UUID) -> None:
    told = r"A retry can't help this job: The scorer changed .*: search again\."
    with transaction(world.sessions) as session, pytest.raises(Obsolete, match=told):
        control.retry_job(session, world.user, changed)
    with transaction(world.sessions) as session:
        done = control.apply_to_jobs(session, world.user, BulkAction.RETRY, [changed])
        assert (done.jobs, dict(done.refused)) == ([], {NO_HELP: 1})
        assert not session.scalar(sa.select(Job.id).where(Job.id == changed, control.allowed(BulkAction.RETRY)))


def test_none_of_its_units_is_retried(world: World, changed: UUID) -> None:
    dead = [unit.id for unit in world.units(changed, Stage.FINE) if unit.state is UnitState.DEAD]
    filters = FailureFilters(routing=routing_of(world.settings))
    with transaction(world.sessions) as session:
        assert [unit.may for unit in failures.page(session, world.user, filters)] == [False]
        assert failures.count(session, world.user, filters) == (1, 0)
        now = session.scalar(sa.select(sa.func.now()))
        assert now is not None
        assert failures.changeable(session, world.user, filters, until=now) == []
        done = failures.requeue(session, world.user, dead)
        assert (done.number, dict(done.refused)) == (0, {NO_HELP: 1})


def test_doctor_advises_to_search_again(world: World, changed: UUID) -> None:
    del changed
    with world.sessions() as session:
        told = [one.advice for one in stuck.find(session, world.settings) if "died" in one.what]
    assert told == ["No retry can help: begin these jobs again, as the error says."]


def test_a_unit_that_a_retry_can_help_does_not_help_its_search(world: World, changed: UUID) -> None:
    with transaction(world.sessions) as session:
        (first, last) = session.scalars(sa.select(Unit).where(Unit.job_id == changed, Unit.stage == Stage.FINE)).all()
        assert (first.final, last.final) == (False, True)
        first.state, first.error = UnitState.DEAD, "The server refuses the key (401)."
    with transaction(world.sessions) as session:
        done = failures.requeue(session, world.user, [first.id])
        assert (done.number, dict(done.refused)) == (0, {NO_HELP: 1})
