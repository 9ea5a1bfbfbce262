"""Accepted work is never lost and counts once: claims, leases, fences, attempts."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import JobState, UnitState
from retllm.db.jobs import Attempt, Job, Unit
from retllm.db.session import transaction
from retllm.db.tables import Collection, Item
from retllm.errors import JobCancelled, MediaRejected, ModelUnavailable, StaleClaim
from retllm.history import control
from retllm.indexing.submit import submit_index
from retllm.queue import claim as claims
from retllm.queue.claim import Lease
from retllm.queue.routing import Notification


def _index(world, *texts: str) -> tuple[UUID, list[UUID]]:
    world.add_texts(*texts)
    with transaction(world.sessions) as session:
        job = submit_index(session, world.user, world.collection_id, world.settings).job
    return job.id, [unit.id for unit in world.units(job.id)]


def _nothing(session: Session, job: Job) -> list[Notification]:
    return []


def _expire(world, unit_id: UUID) -> None:
    with transaction(world.sessions) as session:
        session.execute(
            sa.update(Unit).where(Unit.id == unit_id).values(lease_until=sa.func.now() - sa.text("interval '1 second'"))
        )


def test_only_one_of_twenty_workers_claims_a_unit(world) -> None:
    _, (unit_id,) = _index(world, "one")
    start = threading.Barrier(20)

    def take(number: int) -> object:
        start.wait()
        return world.claim(unit_id, f"w{number}")

    with ThreadPoolExecutor(20) as pool:
        taken = [claim for claim in pool.map(take, range(20)) if claim is not None]
    assert len(taken) == 1
    assert world.units(taken[0].job_id)[0].attempt == 1


def test_claiming_the_first_unit_starts_the_job(world) -> None:
    job_id, units = _index(world, "a", "b", "c")
    assert world.job(job_id).state is JobState.QUEUED
    world.must_claim(units[0])
    job = world.job(job_id)
    assert job.state is JobState.RUNNING
    assert job.started_at is not None


def test_the_job_succeeds_when_all_its_units_end_at_the_same_time(world) -> None:
    job_id, units = _index(world, *"abcdefghijklmnop")
    held = [world.must_claim(unit) for unit in units]
    start = threading.Barrier(len(held))

    def finish(claim) -> None:
        start.wait()
        claims.complete(world.sessions, claim, _nothing)

    with ThreadPoolExecutor(len(held)) as pool:
        list(pool.map(finish, held))
    job = world.job(job_id)
    assert job.state is JobState.SUCCEEDED
    assert job.finished_at is not None


def _clock(session: Session) -> datetime:
    """Return the time of the database, after a moment in which nothing else is done."""
    return session.execute(sa.text("SELECT clock_timestamp() FROM pg_sleep(0.01)")).scalar_one()


@pytest.mark.parametrize("how", ["done", "dead", "cancelled"])
def test_a_job_ends_after_its_units_and_these_after_what_was_done_in_them(world, how: str) -> None:
    job_id, units = _index(world, "a", "b", "c")
    done: list[datetime] = []

    def write(session: Session, job: Job) -> list[Notification]:
        done.append(_clock(session))
        return []

    claims.complete(world.sessions, world.must_claim(units[0]), write)
    if how == "done":
        claims.complete(world.sessions, world.must_claim(units[1]), write)
    elif how == "dead":
        claims.fail(world.sessions, world.must_claim(units[1]), MediaRejected("broken"), world.settings)
        with world.sessions() as session:
            done.append(session.scalars(sa.select(Attempt.ended_at).where(Attempt.unit_id == units[1])).one())
    else:
        with transaction(world.sessions) as session:
            done.append(_clock(session))
            control.cancel_job(session, world.user, job_id)
    first, second = (unit.finished_at for unit in world.units(job_id))
    assert done[0] <= first <= done[1] <= second <= world.job(job_id).finished_at


def test_a_worker_with_an_expired_lease_cannot_write_results(world) -> None:
    job_id, (unit_id,) = _index(world, "one")
    claim = world.must_claim(unit_id)
    _expire(world, unit_id)

    def write(session: Session, job: Job) -> list[Notification]:
        session.execute(sa.update(Collection).values(description="written by a stale worker"))
        return []

    with pytest.raises(StaleClaim):
        claims.complete(world.sessions, claim, write)
    with world.sessions() as session:
        assert session.scalar(sa.select(Collection.description)) == ""
    assert world.job(job_id).state is JobState.RUNNING


def test_a_worker_is_fenced_after_another_worker_claims_its_unit(world) -> None:
    job_id, (unit_id,) = _index(world, "one")
    first = world.must_claim(unit_id, "w1")
    claims.fail(world.sessions, first, RuntimeError("lost"), world.settings)
    second = world.must_claim(unit_id, "w2")
    for late in (
        lambda: claims.complete(world.sessions, first, _nothing),
        lambda: claims.fail(world.sessions, first, RuntimeError("late"), world.settings),
        lambda: claims.release(world.sessions, first),
    ):
        with pytest.raises(StaleClaim):
            late()
    claims.complete(world.sessions, second, _nothing)
    assert world.job(job_id).state is JobState.SUCCEEDED


def test_results_and_the_end_of_the_unit_are_committed_in_one_transaction(world) -> None:
    _, (unit_id,) = _index(world, "one")
    claim = world.must_claim(unit_id)

    def write(session: Session, job: Job) -> list[Notification]:
        session.execute(sa.update(Collection).values(description="half done"))
        raise RuntimeError("the worker broke while it wrote")

    with pytest.raises(RuntimeError):
        claims.complete(world.sessions, claim, write)
    with world.sessions() as session:
        assert session.scalar(sa.select(Collection.description)) == ""
        assert session.get_one(Unit, unit_id).state is UnitState.LEASED


def test_retries_are_delayed_longer_each_time_until_the_unit_is_dead(world) -> None:
    world.settings = world.settings.model_copy(update={"backoff_seconds": 40.0})
    job_id, (unit_id,) = _index(world, "one")
    waits = []
    for _ in range(2):
        claims.fail(world.sessions, world.must_claim(unit_id), RuntimeError("no memory"), world.settings)
        assert world.claim(unit_id) is None, "the unit cannot be claimed before run_after"
        with transaction(world.sessions) as session:
            waits.append(
                session.scalar(sa.select(sa.extract("epoch", Unit.run_after - sa.func.now())).where(Unit.id == unit_id))
            )
            session.execute(sa.update(Unit).values(run_after=sa.func.now()))
    assert 35 < waits[0] <= 40
    assert 75 < waits[1] <= 80
    claims.fail(world.sessions, world.must_claim(unit_id), RuntimeError("no memory"), world.settings)
    (unit,) = world.units(job_id)
    assert (unit.state, unit.attempt, unit.error) == (UnitState.DEAD, 3, "one: RuntimeError: no memory")
    job = world.job(job_id)
    assert (job.state, job.error) == (JobState.FAILED, "one: RuntimeError: no memory")


def _failed(message: str) -> RuntimeError:
    """Return an error that was raised, so that it has a traceback."""
    try:
        raise RuntimeError(message)
    except RuntimeError as error:
        return error


def _traceback(world, unit_id: UUID) -> str | None:
    with world.sessions() as session:
        return session.scalar(sa.select(Unit.traceback).where(Unit.id == unit_id))


def test_the_traceback_of_a_failed_attempt_is_kept_until_the_unit_is_done(world) -> None:
    _, (unit_id,) = _index(world, "one")
    claims.fail(world.sessions, world.must_claim(unit_id), _failed("no memory"), world.settings)
    kept = _traceback(world, unit_id)
    assert kept is not None
    assert "in _failed" in kept
    assert kept.rstrip().endswith("RuntimeError: no memory")
    claims.complete(world.sessions, world.must_claim(unit_id), _nothing)
    assert _traceback(world, unit_id) is None


def test_an_expired_lease_clears_the_traceback_of_the_previous_failure(world) -> None:
    _, (unit_id,) = _index(world, "one")
    claims.fail(world.sessions, world.must_claim(unit_id), _failed("no memory"), world.settings)
    with transaction(world.sessions) as session:
        unit = session.get_one(Unit, unit_id)
        claims.retry_or_fail(session, session.get_one(Job, unit.job_id), unit, "its lease ran out", world.settings)
    assert _traceback(world, unit_id) is None


def test_errors_with_invalid_characters_or_excessive_length_are_stored(world) -> None:
    """If the error could not be stored, the unit would only be retried after each expired lease."""
    _, (unit_id,) = _index(world, "one")
    claims.fail(world.sessions, world.must_claim(unit_id), _failed("\0\udc80" + "no memory " * 5_000), world.settings)
    (kept, error) = (_traceback(world, unit_id), world.in_transaction(lambda s: s.get_one(Unit, unit_id).error))
    assert kept is not None
    assert len(kept) == 20_000
    assert kept.rstrip().endswith("no memory no memory")
    assert str(error).startswith("RuntimeError: \N{REPLACEMENT CHARACTER}?no memory no")
    assert len(str(error)) == 2_000


def test_an_invalid_item_does_not_fail_the_other_items_of_its_unit(world) -> None:
    """A failing unit of several items is split; only the unit of the bad item is dead."""
    job_id, (unit_id,) = _index(world, "good", "bad")
    with world.sessions() as session:
        bad = str(session.scalar(sa.select(Item.id).where(Item.text == "bad")))
    claim = world.must_claim(unit_id)
    opened = claims.fail(world.sessions, claim, MediaRejected("can't be decoded"), world.settings)
    assert len(opened) == 2
    for single, *_ in opened:
        claim = world.must_claim(single)
        if claim.payload["items"] == [bad]:
            claims.fail(world.sessions, claim, MediaRejected("can't be decoded"), world.settings)
        else:
            claims.complete(world.sessions, claim, _nothing)
    states = [unit.state for unit in world.units(job_id)]
    assert states.count(UnitState.SPLIT) == 1
    assert states.count(UnitState.DONE) == 1
    assert states.count(UnitState.DEAD) == 1
    assert world.job(job_id).state is JobState.PARTIAL


def test_an_unavailable_model_does_not_split_the_unit(world) -> None:
    job_id, (unit_id,) = _index(world, "a", "b")
    for _ in range(3):
        claims.fail(world.sessions, world.must_claim(unit_id), ModelUnavailable("no such folder"), world.settings)
    (unit,) = world.units(job_id)
    assert unit.state is UnitState.DEAD
    assert world.job(job_id).error == "no such folder"


def test_the_lease_is_renewed_while_the_worker_is_busy(world) -> None:
    world.settings = world.settings.model_copy(update={"lease_seconds": 0.6})
    job_id, (unit_id,) = _index(world, "one")
    claim = world.must_claim(unit_id)
    with Lease(world.sessions, claim, world.settings) as lease:
        granted = world.units(job_id)[0].lease_until
        end = time.monotonic() + 60
        while world.units(job_id)[0].lease_until < granted + timedelta(seconds=1.8):
            assert time.monotonic() < end, "the lease was not renewed three times"
            time.sleep(0.05)
        lease.check()
        claims.complete(world.sessions, claim, _nothing)


def test_a_lost_lease_is_detected_between_batches(world) -> None:
    world.settings = world.settings.model_copy(update={"lease_seconds": 0.6})
    _, (unit_id,) = _index(world, "one")
    claim = world.must_claim(unit_id)
    _expire(world, unit_id)
    with Lease(world.sessions, claim, world.settings) as lease:
        assert lease._lost.wait(60)
        with pytest.raises(StaleClaim):
            lease.check()


def test_cancelling_a_job_cancels_its_ready_units_and_interrupts_the_worker_that_holds_a_unit(world) -> None:
    world.settings = world.settings.model_copy(update={"lease_seconds": 0.6})
    job_id, units = _index(world, "a", "b", "c", "d")
    claim = world.must_claim(units[0])
    with Lease(world.sessions, claim, world.settings) as lease:
        with transaction(world.sessions) as session:
            control.cancel_job(session, world.user, job_id)
        assert [unit.state for unit in world.units(job_id)] == [UnitState.LEASED, UnitState.CANCELLED]
        assert lease._cancelled.wait(60)
        with pytest.raises(JobCancelled):
            lease.check()
        claims.release(world.sessions, claim)
    assert world.job(job_id).state is JobState.CANCELLED
    assert {unit.state for unit in world.units(job_id)} == {UnitState.CANCELLED}


def test_a_unit_that_completes_after_the_cancellation_writes_no_results(world) -> None:
    job_id, (unit_id,) = _index(world, "a")
    claim = world.must_claim(unit_id)
    with transaction(world.sessions) as session:
        control.cancel_job(session, world.user, job_id)

    def write(session: Session, job: Job) -> list[Notification]:
        raise AssertionError("a cancelled job must not store results")

    claims.complete(world.sessions, claim, write)
    assert world.job(job_id).state is JobState.CANCELLED


def test_deleting_a_collection_makes_the_claims_on_its_units_stale(world) -> None:
    _, (unit_id,) = _index(world, "a")
    claim = world.must_claim(unit_id)
    with transaction(world.sessions) as session:
        session.execute(sa.delete(Collection))
    with pytest.raises(StaleClaim):
        claims.complete(world.sessions, claim, _nothing)
    assert world.claim(unit_id) is None
