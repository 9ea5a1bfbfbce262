"""A unit whose server is away waits for it: no attempt counts, the reason is in view, and there is an end to it."""

from __future__ import annotations

from uuid import UUID

import pytest
import sqlalchemy as sa

from retllm.db.enums import AttemptOutcome, JobState, UnitState
from retllm.db.session import transaction
from retllm.db.tables import Attempt, Job, Unit
from retllm.errors import ServerAway
from retllm.history import control
from retllm.history.job_views import job_view
from retllm.indexing.submit import submit_index
from retllm.queue.audit import violations
from retllm.queue.worker import WorkerContext, run_unit

AWAY = "The server of the scorer openai:m is away: it can't be reached."


def _unit(world) -> Unit:
    world.add_texts("one")
    with transaction(world.sessions) as session:
        job = submit_index(session, world.user, world.collection_id, world.settings).job
    return world.units(job.id)[0]


def _run(context: WorkerContext, unit_id: UUID, seconds: float = 0) -> float:
    """Let the unit find its server away; return the seconds after which it is claimed again, and make it ready now."""

    def away(*_: object) -> None:
        raise ServerAway(AWAY, seconds)

    assert run_unit(context, unit_id, away)
    with transaction(context.sessions) as session:
        unit = session.get_one(Unit, unit_id)
        wait = session.scalar(sa.select(sa.extract("epoch", Unit.run_after - sa.func.clock_timestamp())))
        unit.run_after = sa.func.now()
    return float(wait or 0)


def _patient(context: WorkerContext, **changes: object) -> WorkerContext:
    settings = context.settings.model_copy(update=changes)
    return WorkerContext(context.sessions, context.storage, settings, context.notifier, context.worker)


def test_waiting_counts_as_no_attempt_and_the_job_says_why(context: WorkerContext, world) -> None:
    unit = _unit(world)
    for _ in range(world.settings.max_attempts + 1):
        _run(context, unit.id)
    (unit,) = world.units(unit.job_id)
    assert (unit.state, unit.attempt, unit.error) == (UnitState.READY, 0, AWAY)
    with world.sessions() as session:
        view = job_view(session, world.job(unit.job_id))
    assert [(error.error, error.waits) for error in view.errors] == [(AWAY, True)]
    assert view.state is JobState.RUNNING
    assert violations(world.sessions) == []


def test_the_waits_double_up_to_half_a_minute_and_are_as_long_as_the_server_wants(
    context: WorkerContext, world
) -> None:
    unit = _unit(world)
    slow = _patient(context, backoff_seconds=4.0)
    waits = [_run(slow, unit.id) for _ in range(5)]
    assert waits == pytest.approx([4, 8, 16, 30, 30], abs=1)
    assert _run(slow, unit.id, 77) == pytest.approx(77, abs=1)


def _long_ago(world, unit_id: UUID, minutes: int) -> None:
    ago = sa.text(f"interval '{minutes} minutes'")
    with transaction(world.sessions) as session:
        session.execute(
            sa.update(Attempt).where(Attempt.unit_id == unit_id).values(started_at=Attempt.started_at - ago)
        )


def test_a_unit_that_has_waited_too_long_is_dead_and_a_retry_waits_anew(context: WorkerContext, world) -> None:
    unit = _unit(world)
    _run(context, unit.id)
    _long_ago(world, unit.id, 59)
    _run(context, unit.id)
    assert world.units(unit.job_id)[0].state is UnitState.READY
    _long_ago(world, unit.id, 2)
    _run(context, unit.id)
    (dead,) = world.units(unit.job_id)
    assert (dead.state, dead.error) == (UnitState.DEAD, AWAY)
    assert world.job(unit.job_id).state is JobState.FAILED
    with transaction(world.sessions) as session:
        control.retry_job(session, world.user, unit.job_id)
    _run(context, unit.id)
    assert world.units(unit.job_id)[0].state is UnitState.READY


def test_a_cancelled_job_does_not_wait(context: WorkerContext, world) -> None:
    unit = _unit(world)

    def cancelled(*_: object) -> None:
        with transaction(world.sessions) as session:
            session.execute(sa.update(Job).values(cancel_requested=True))
        raise ServerAway(AWAY)

    run_unit(context, unit.id, cancelled)
    assert world.job(unit.job_id).state is JobState.CANCELLED
    with world.sessions() as session:
        assert session.scalars(sa.select(Attempt.outcome)).all() == [AttemptOutcome.CANCELLED]
