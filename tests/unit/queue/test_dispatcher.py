"""Dispatchers notify workers of unclaimed units and take back units with expired leases."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
import redis
import sqlalchemy as sa

from retllm.db.enums import AttemptOutcome, JobState, Stage, UnitState
from retllm.db.jobs import Attempt, Job, Unit
from retllm.db.session import transaction
from retllm.indexing.submit import submit_index
from retllm.queue import ready
from retllm.queue.dispatcher import Dispatcher
from retllm.queue.notifications import TASK_OF, Notifier
from retllm.queue.routing import ONE_SCORER, QUEUE_OF, Notification


class Recorder:
    """A notifier that records the units; every queue contains ``waiting`` notifications."""

    def __init__(self, waiting: int = 0) -> None:
        self.notified: list[UUID] = []
        self.waiting = waiting

    def notify(self, units) -> int:
        taken = [unit_id for unit_id, *_ in units]
        self.notified.extend(taken)
        return len(taken)

    def depth(self, queue: str) -> int:
        return self.waiting


def _job(world, count: int, name: str = "text") -> UUID:
    world.add_texts(*[f"{name} {n}" for n in range(count)])
    with transaction(world.sessions) as session:
        return submit_index(session, world.user, world.collection_id, world.settings).job.id


def _age(world, **values: object) -> None:
    with transaction(world.sessions) as session:
        session.execute(sa.update(Unit).values(**values))


_MINUTE = sa.text("interval '1 minute'")
_AGO = sa.func.now() - sa.text("interval '10 seconds'")


def test_an_unclaimed_unit_is_announced_again_after_the_configured_interval(world) -> None:
    _job(world, 2)
    recorder = Recorder()
    dispatcher = Dispatcher(world.sessions, recorder, world.settings)
    assert dispatcher.round() == 0, "the unit was announced when its job was submitted"
    _age(world, announced_at=_AGO)
    assert dispatcher.round() == 1
    assert dispatcher.round() == 0


def test_no_notifications_are_sent_to_a_full_queue(world) -> None:
    _job(world, 8)
    _age(world, announced_at=None)
    settings = world.settings.model_copy(update={"queue_depth": 10})
    recorder = Recorder(waiting=7)
    Dispatcher(world.sessions, recorder, settings).round()
    assert len(recorder.notified) == 3
    recorder.waiting = 10
    Dispatcher(world.sessions, recorder, settings).round()
    assert len(recorder.notified) == 3


@pytest.mark.parametrize("method", ["hashjoin", "mergejoin", "nestloop"])
def test_the_limit_of_announced_units_holds_for_every_query_plan(world, method: str) -> None:
    _job(world, 8)
    with transaction(world.sessions) as session:
        for other in {"hashjoin", "mergejoin", "nestloop", "hashagg", "material", "memoize", "sort"} - {method}:
            session.execute(sa.text(f"SET LOCAL enable_{other} = off"))
        assert len(ready.take_ready(session, ONE_SCORER, "embed", 3)) == 3


def test_two_dispatchers_announce_each_unit_once(world) -> None:
    _job(world, 100)
    _age(world, announced_at=None)
    recorders = [Recorder(), Recorder()]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda recorder: Dispatcher(world.sessions, recorder, world.settings).round(), recorders))
    notified = recorders[0].notified + recorders[1].notified
    assert len(notified) == len(set(notified))
    Dispatcher(world.sessions, recorders[0], world.settings).round()
    notified = recorders[0].notified + recorders[1].notified
    assert len(notified) == len(set(notified)) == 50


def test_a_unit_with_an_expired_lease_becomes_ready_and_its_error_names_the_worker(world) -> None:
    job_id = _job(world, 1)
    (unit,) = world.units(job_id)
    world.must_claim(unit.id, "gpu7:4711")
    dispatcher = Dispatcher(world.sessions, Recorder(), world.settings)
    assert dispatcher.rescue() == 0, "a unit with a valid lease is not taken back"
    _age(world, lease_until=_AGO)
    assert dispatcher.rescue() == 1
    (unit,) = world.units(job_id)
    assert unit.state is UnitState.READY
    assert "gpu7:4711" in (unit.error or "")
    assert world.must_claim(unit.id).attempt == 2


def test_a_unit_whose_lease_expires_in_every_attempt_is_dead_and_fails_its_job(world) -> None:
    job_id = _job(world, 1)
    (unit,) = world.units(job_id)
    dispatcher = Dispatcher(world.sessions, Recorder(), world.settings)
    for _ in range(world.settings.max_attempts):
        world.must_claim(unit.id)
        _age(world, lease_until=_AGO)
        dispatcher.rescue()
    assert world.units(job_id)[0].state is UnitState.DEAD
    assert world.job(job_id).state is JobState.FAILED
    assert "lease ran out" in (world.job(job_id).error or "")


def test_a_cancelled_job_ends_after_the_lease_of_its_last_unit_expires(world) -> None:
    from retllm.history import control

    job_id = _job(world, 1)
    world.must_claim(world.units(job_id)[0].id)
    with transaction(world.sessions) as session:
        control.cancel_job(session, world.user, job_id)
    assert world.job(job_id).finished_at is None
    _age(world, lease_until=_AGO)
    Dispatcher(world.sessions, Recorder(), world.settings).round()
    assert world.job(job_id).state is JobState.CANCELLED


def test_notifications_are_sent_to_the_queue_of_their_stage_with_its_task_name(world, redis_url: str) -> None:
    job_id = _job(world, 1)
    unit_id = world.units(job_id)[0].id
    client = redis.Redis.from_url(redis_url)
    notifier = Notifier(redis_url)
    for stage in Stage:
        before = notifier.depth(QUEUE_OF[stage])
        assert notifier.notify([Notification(unit_id, stage)]) == 1
        assert notifier.depth(QUEUE_OF[stage]) == before + 1
        message = client.lindex(QUEUE_OF[stage], 0)
        assert TASK_OF[stage].encode() in message
        client.lpop(QUEUE_OF[stage])


def test_an_unreachable_broker_does_not_make_notify_fail(world, unused_tcp_port: int) -> None:
    job_id = _job(world, 1)
    unit = world.units(job_id)[0]
    notifier = Notifier(f"redis://127.0.0.1:{unused_tcp_port}/0")
    assert notifier.notify([Notification(unit.id, Stage.EMBED)]) == 0
    with pytest.raises(redis.RedisError):
        notifier.depth("embed")


def test_a_unit_that_cannot_be_taken_back_does_not_block_the_others(world, monkeypatch) -> None:
    monkeypatch.setattr("retllm.queue.dispatcher._BATCH", 1)
    job_id = _job(world, 4)
    bad, good = [unit.id for unit in world.units(job_id)]
    for unit_id in (bad, good):
        world.must_claim(unit_id)
    with transaction(world.sessions) as session:
        past = {"lease_until": sa.func.clock_timestamp() - sa.text("interval '2 seconds'")}
        session.execute(sa.update(Unit).values(past))
        # its last attempt is lost, so its error is stored with its item, whose id is invalid
        worst = {"attempt": world.settings.max_attempts, "payload": {"items": ["no key"]}, "lease_until": _AGO}
        session.execute(sa.update(Unit).where(Unit.id == bad).values(worst))
    dispatcher = Dispatcher(world.sessions, Recorder(), world.settings)
    assert [dispatcher.rescue(), dispatcher.rescue(), dispatcher.rescue()] == [0, 1, 0]
    assert {unit.id: unit.state for unit in world.units(job_id)} == {bad: UnitState.LEASED, good: UnitState.READY}


def test_a_job_that_is_locked_does_not_block_the_others(world, monkeypatch) -> None:
    monkeypatch.setattr("retllm.queue.dispatcher._BATCH", 2)
    locked = _job(world, 4)
    with transaction(world.sessions) as session:
        session.execute(sa.update(Job).values(finished_at=sa.func.now(), state=JobState.SUCCEEDED))
    other = _job(world, 2, "other")
    with transaction(world.sessions) as session:
        session.execute(sa.update(Job).where(Job.id == locked).values(finished_at=None, state=JobState.RUNNING))
    mine = [unit.id for unit in world.units(locked)]
    for unit_id in (*mine, *(unit.id for unit in world.units(other))):
        world.must_claim(unit_id)
    # those of the locked job come first, and are as many as are looked at together
    _age(world, lease_until=_AGO)
    with transaction(world.sessions) as session:
        session.execute(sa.update(Unit).where(Unit.id.in_(mine)).values(lease_until=sa.func.now() - _MINUTE))
    dispatcher = Dispatcher(world.sessions, Recorder(), world.settings)
    with transaction(world.sessions) as holder:
        holder.execute(sa.select(Job.id).where(Job.id == locked).with_for_update())
        assert [dispatcher.rescue(), dispatcher.rescue()] == [0, 2]
    assert {unit.state for unit in world.units(locked)} == {UnitState.LEASED}
    deadline = time.monotonic() + 60
    while dispatcher.rescue() or UnitState.LEASED in {unit.state for unit in world.units(locked)}:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert {unit.state for unit in world.units(locked)} == {UnitState.READY}


def _outcomes(world) -> list[AttemptOutcome | None]:
    with world.sessions() as session:
        return list(session.scalars(sa.select(Attempt.outcome).order_by(Attempt.token)))
