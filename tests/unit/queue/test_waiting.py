"""A unit whose server is away waits for it: no attempt counts, the reason is in view, and there is an end to it."""

from __future__ import annotations

from uuid import UUID

import pytest
import sqlalchemy as sa

from retllm.db.enums import AttemptOutcome, JobState, UnitState
from retllm.db.jobs import Attempt, Job, Unit
from retllm.db.session import transaction
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
    """Let the unit find its server away; return the seconds after which it is claimed again, and let them pass."""

    def away(*_: object) -> None:
        raise ServerAway(AWAY, seconds)

    assert run_unit(context, unit_id, away)
    with transaction(context.sessions) as session:
        wait = session.scalar(sa.select(sa.extract("epoch", Unit.run_after - sa.func.clock_timestamp())))
        passed = sa.func.greatest(Unit.run_after - sa.func.now(), sa.text("interval '0'"))
        values = {"run_after": Unit.run_after - passed, "waits_until": Unit.waits_until - passed}
        session.execute(sa.update(Unit).where(Unit.id == unit_id).values(values))
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


def test_the_last_try_is_when_patience_ends(context: WorkerContext, world) -> None:
    unit = _unit(world)
    hasty = _patient(context, backoff_seconds=4.0, scorer_patience_seconds=20.0)
    waits = [_run(hasty, unit.id) for _ in range(3)]
    assert waits == pytest.approx([4, 8, 8], abs=1)
    assert world.units(unit.job_id)[0].state is UnitState.READY
    _run(hasty, unit.id)
    assert world.units(unit.job_id)[0].state is UnitState.DEAD


def _long_ago(world, unit_id: UUID, minutes: int) -> None:
    """Let the unit have waited or been tried for so long."""
    ago = sa.text(f"interval '{minutes} minutes'")
    with transaction(world.sessions) as session:
        session.execute(sa.update(Unit).where(Unit.id == unit_id).values(waits_until=Unit.waits_until - ago))


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


def _shift(world, unit_id: UUID, hours: int) -> None:
    """Let the unit have been ready since so long ago, and nobody tries it, as in a pause."""
    ago = sa.text(f"interval '{hours} hours'")
    values = {name: getattr(Unit, name) - ago for name in ("run_after", "waits_until", "started_at")}
    with transaction(world.sessions) as session:
        session.execute(sa.update(Unit).where(Unit.id == unit_id).values(values))


def _until(world, unit: Unit) -> float:
    """Return the seconds from now at which the unit fails, as the view of its job says."""
    with world.sessions() as session:
        (error,) = job_view(session, world.job(unit.job_id)).errors
        now = session.scalar(sa.select(sa.func.now()))
    assert error.waits_until is not None
    return (error.waits_until - now).total_seconds()


def test_time_in_which_nobody_tries_a_unit_costs_no_patience(context: WorkerContext, world) -> None:
    unit = _unit(world)
    _run(context, unit.id)
    for _ in range(3):
        left = _until(world, unit)
        assert left <= world.settings.scorer_patience_seconds + 1
        _shift(world, unit.id, 2)
        assert _until(world, unit) == pytest.approx(left, abs=5)
        _run(context, unit.id)
        assert world.units(unit.job_id)[0].state is UnitState.READY
    _long_ago(world, unit.id, 61)
    _run(context, unit.id)
    assert world.units(unit.job_id)[0].state is UnitState.DEAD


def test_a_long_try_costs_as_much_patience_as_it_takes(context: WorkerContext, world) -> None:
    unit = _unit(world)
    _run(context, unit.id)
    before = _until(world, unit)

    def away(*_: object) -> None:
        ago = Unit.started_at - sa.text("interval '10 minutes'")
        with transaction(world.sessions) as session:
            session.execute(sa.update(Unit).where(Unit.id == unit.id).values(started_at=ago))
        raise ServerAway(AWAY)

    assert run_unit(context, unit.id, away)
    assert _until(world, unit) == pytest.approx(before - 600, abs=10)


def test_whoever_gets_further_waits_anew(context: WorkerContext, world) -> None:
    unit = _unit(world)
    _run(context, unit.id)
    _long_ago(world, unit.id, 59)

    def fails(*_: object) -> None:
        raise RuntimeError("once")

    assert run_unit(context, unit.id, fails)
    with world.sessions() as session:
        (error,) = job_view(session, world.job(unit.job_id)).errors
    assert (error.waits, error.waits_until) == (False, None)
    with transaction(world.sessions) as session:
        session.execute(sa.update(Unit).values(run_after=sa.func.now()))
    _run(context, unit.id)
    assert _until(world, unit) > 3500


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
