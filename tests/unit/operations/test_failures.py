"""Dead units are listed for those who may see them, and retried once by those who may change them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from retllm.db.enums import JobState, Role, UnitState, Visibility
from retllm.db.jobs import Unit
from retllm.db.session import transaction
from retllm.db.tables import Collection
from retllm.errors import InvalidInput
from retllm.history import control
from retllm.identity import accounts
from retllm.identity.actor import Actor
from retllm.indexing.submit import submit_index
from retllm.operations import failures
from retllm.operations.failures import FailureCursor, FailureFilters
from retllm.queue.claim import complete, fail

# an id that does not exist
ANY = "018f3c5e-0000-7000-8000-000000000000"


def _job(world, items: int) -> UUID:
    """An index job of units of two items each."""
    world.add_texts(*[f"text {n} {uuid4()}" for n in range(items)])
    with transaction(world.sessions) as session:
        return submit_index(session, world.user, world.collection_id, world.settings).job.id


def _die(world, unit: Unit, error: str = "disk full") -> None:
    """Let a unit fail until it is dead, without splitting it."""
    with transaction(world.sessions) as session:
        session.execute(sa.update(Unit).where(Unit.id == unit.id).values(payload={"items": unit.payload["items"][:1]}))
    for _ in range(world.settings.max_attempts):
        fail(world.sessions, world.must_claim(unit.id), OSError(error), world.settings)


def _account(world, name: str, role: Role = Role.EDITOR) -> Actor:
    with transaction(world.sessions) as session:
        return Actor.unlimited(accounts.create_user(session, name, "a-long-password", role))


def _share(world) -> None:
    with transaction(world.sessions) as session:
        session.execute(sa.update(Collection).values(visibility=Visibility.EVERYONE))


def _page(world, user: Actor | None = None, **filters: object) -> list[failures.DeadUnit]:
    with transaction(world.sessions) as session:
        return failures.page(session, user or world.user, FailureFilters(**filters))


def _requeue(world, units: list[UUID], user: Actor | None = None) -> failures.Requeued:
    with transaction(world.sessions) as session:
        return failures.requeue(session, user or world.user, units)


def test_a_dead_unit_is_listed_with_its_error_and_its_job(world) -> None:
    job_id = _job(world, 4)
    _die(world, world.units(job_id)[0])
    (dead,) = _page(world)
    assert (dead.job_id, dead.stage, dead.seq, dead.items, dead.attempt) == (job_id, "embed", 0, 1, 3)
    assert (dead.collection, dead.may) == ("papers", True)
    assert re.fullmatch("text 0 .*: OSError: disk full", dead.error), "the item is named"


def test_filters_narrow_the_list_and_the_count(world) -> None:
    for unit, error in zip(world.units(_job(world, 4)), ("disk full", "100% lost"), strict=True):
        _die(world, unit, error)
    lost, full = "OSError: 100% lost", "OSError: disk full"
    for filters, expected in (({}, [lost, full]), ({"text": "DISK"}, [full]), ({"text": "0%"}, [lost])):
        assert [one.error.partition(": ")[2] for one in _page(world, **filters)] == expected
    assert len(_page(world, queue="embed", collection_id=world.collection_id)) == 2
    assert _page(world, queue="score") == _page(world, collection_id=uuid4()) == []
    with transaction(world.sessions) as session:
        assert failures.count(session, world.user, FailureFilters(text="disk")) == (1, 1)


def test_pages_have_no_gaps_even_if_several_units_died_at_the_same_time(world) -> None:
    for unit in world.units(_job(world, 10)):
        _die(world, unit)
    with transaction(world.sessions) as session:
        session.execute(sa.update(Unit).values(finished_at=sa.func.now()))
    whole = [one.id for one in _page(world)]
    got: list[UUID] = []
    after = None
    with transaction(world.sessions) as session:
        while rows := failures.page(session, world.user, FailureFilters(), after=after, limit=2):
            got += [one.id for one in rows]
            after = FailureCursor.parse(str(rows[-1].place))
    assert got == whole
    assert len(set(got)) == 5


@pytest.mark.parametrize(
    "text",
    ["", "x", "2026-01-01", f"2026-01-01_{ANY}", f"_{ANY}", "1_1", f"{10**16}_{ANY}", f"-1_{ANY}"],
)
def test_an_invalid_cursor_is_rejected(text: str) -> None:
    with pytest.raises(InvalidInput):
        FailureCursor.parse(text)


def test_requeuing_a_unit_reopens_its_job_and_leaves_the_other_units_dead(world) -> None:
    job_id = _job(world, 4)
    first, second = world.units(job_id)
    _die(world, first)
    _die(world, second)
    assert world.job(job_id).state is JobState.FAILED
    done = _requeue(world, [first.id])
    assert (done.number, done.refused, [unit.unit_id for unit in done.units]) == (1, {}, [first.id])
    assert (world.job(job_id).state, world.job(job_id).finished_at) == (JobState.QUEUED, None)
    claim = world.must_claim(first.id)
    assert claim.attempt == 1
    complete(world.sessions, claim, lambda session, job: [])
    assert world.job(job_id).state is JobState.PARTIAL, "the other unit is still dead"
    assert world.units(job_id)[1].state is UnitState.DEAD


def test_requeuing_a_unit_of_a_running_job_does_not_restart_the_job(world) -> None:
    job_id = _job(world, 4)
    first, second = world.units(job_id)
    _die(world, first)
    claim = world.must_claim(second.id)
    begun = world.job(job_id).started_at
    assert _requeue(world, [first.id]).number == 1
    assert (world.job(job_id).state, world.job(job_id).started_at) == (JobState.RUNNING, begun)
    complete(world.sessions, claim, lambda session, job: [])
    complete(world.sessions, world.must_claim(first.id), lambda session, job: [])
    assert world.job(job_id).state is JobState.SUCCEEDED


def test_a_second_request_requeues_nothing(world) -> None:
    unit = world.units(_job(world, 2))[0]
    _die(world, unit)
    assert _requeue(world, [unit.id]).number == 1
    again = _requeue(world, [unit.id, uuid4()])
    assert (again.number, again.units, again.refused) == (0, [], {failures.TOO_LATE: 2})


def test_requeuing_a_unit_of_a_cancelled_job_reopens_all_its_units(world) -> None:
    job_id = _job(world, 4)
    first = world.units(job_id)[0]
    _die(world, first)
    with transaction(world.sessions) as session:
        control.cancel_job(session, world.user, job_id)
    assert world.job(job_id).state is JobState.CANCELLED
    assert _requeue(world, [first.id]).number == 1
    assert {unit.state for unit in world.units(job_id)} == {UnitState.READY}


def test_units_of_a_job_that_is_being_cancelled_are_not_requeued(world) -> None:
    job_id = _job(world, 4)
    first, second = world.units(job_id)
    _die(world, first)
    world.must_claim(second.id)
    with transaction(world.sessions) as session:
        control.cancel_job(session, world.user, job_id)
    assert _requeue(world, [first.id]).refused == {failures.STOPPING: 1}
    with transaction(world.sessions) as session:
        assert failures.changeable(session, world.user, FailureFilters(), until=datetime.now(UTC)) == []


def test_accounts_without_change_rights_see_no_traceback_and_cannot_requeue(world) -> None:
    unit = world.units(_job(world, 2))[0]
    _die(world, unit)
    with transaction(world.sessions) as session:
        session.execute(sa.update(Unit).values(traceback="Traceback: secret"))
    bob = _account(world, "bob")
    assert _page(world, bob) == []
    assert _requeue(world, [unit.id], bob).refused == {failures.TOO_LATE: 1}
    _share(world)
    (dead,) = _page(world, bob)
    assert (dead.may, dead.traceback) == (False, None)
    assert _requeue(world, [unit.id], bob).refused == {failures.NOT_ALLOWED: 1}
    with transaction(world.sessions) as session:
        assert failures.count(session, bob, FailureFilters()) == (1, 0)
        assert failures.changeable(session, bob, FailureFilters(), until=datetime.now(UTC)) == []
    for account in (world.user, _account(world, "root", Role.ADMIN)):
        (dead,) = _page(world, account)
        assert (dead.may, dead.traceback) == (True, "Traceback: secret")
    with transaction(world.sessions) as session:
        assert failures.changeable(session, world.user, FailureFilters(), until=datetime.now(UTC)) == [unit.id]
