"""The units of a job and the attempts at them."""

from __future__ import annotations

from uuid import UUID

import pytest
import sqlalchemy as sa
from tests.unit.stand_ins import SilentNotifier

from retllm.db.enums import AttemptOutcome, JobKind, Stage, UnitState, Visibility
from retllm.db.jobs import Job, Unit
from retllm.db.session import transaction
from retllm.db.tables import Collection, new_id
from retllm.errors import MediaRejected, NotFound
from retllm.history.attempts import AttemptView, UnitPosition, attempts
from retllm.identity import accounts
from retllm.identity.actor import Actor
from retllm.queue import claim as claims
from retllm.queue.dispatcher import Dispatcher


@pytest.fixture
def job_id(world) -> UUID:
    """A search job with a unit of the coarse stage and three of the fine stage, none started."""
    with transaction(world.sessions) as session:
        job = Job(kind=JobKind.SEARCH, user_id=world.user.id, collection_id=world.collection_id, params={})
        session.add(job)
        session.flush()
    world.add_units(job.id, Stage.COARSE, {})
    world.add_units(job.id, Stage.FINE, *({"items": [str(new_id()) for _ in range(n)]} for n in (2, 1, 0)))
    return job.id


def _listed(world, job_id: UUID, **options: object) -> list[AttemptView]:
    with transaction(world.sessions) as session:
        return attempts(session, world.user, job_id, **options)


def test_units_are_listed_by_stage_and_number_with_their_number_of_items(world, job_id: UUID) -> None:
    rows = _listed(world, job_id)
    assert [(row.stage, row.seq, row.items) for row in rows] == [
        (Stage.COARSE, 0, None),
        (Stage.FINE, 0, 2),
        (Stage.FINE, 1, 1),
        (Stage.FINE, 2, 0),
    ]
    assert {(row.attempt, row.worker, row.started_at, row.seconds) for row in rows} == {(0, None, None, None)}


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_pages_contain_every_unit_once(world, job_id: UUID, size: int) -> None:
    seen: list[UnitPosition] = []
    after: UnitPosition | None = None
    while page := _listed(world, job_id, after=after, limit=size):
        seen += [(row.stage, row.seq) for row in page]
        after = seen[-1]
    assert seen == [(row.stage, row.seq) for row in _listed(world, job_id)]


def test_a_failed_attempt_is_listed_with_its_worker_its_error_and_the_time_of_the_retry(world, job_id: UUID) -> None:
    world.settings = world.settings.model_copy(update={"backoff_seconds": 40.0})
    unit = world.units(job_id, Stage.FINE)[1]
    claims.fail(world.sessions, world.must_claim(unit.id, "host:7"), RuntimeError("no memory"), world.settings)
    row = _listed(world, job_id)[2]
    assert (row.state, row.attempt, row.worker, row.error) == (UnitState.READY, 1, "host:7", "RuntimeError: no memory")
    assert row.run_after is not None
    assert row.traceback is None


def test_every_attempt_at_a_unit_is_listed(world, job_id: UUID) -> None:
    world.settings = world.settings.model_copy(update={"backoff_seconds": 0.0})
    unit = world.units(job_id, Stage.FINE)[1]
    claims.fail(world.sessions, world.must_claim(unit.id, "host:7"), RuntimeError("no memory"), world.settings)
    claims.release(world.sessions, world.must_claim(unit.id, "host:8"))
    world.must_claim(unit.id, "host:9")
    with transaction(world.sessions) as session:
        session.execute(sa.update(Unit).values(lease_until=sa.func.clock_timestamp()))
    assert Dispatcher(world.sessions, SilentNotifier(), world.settings).rescue() == 1
    claims.complete(world.sessions, world.must_claim(unit.id, "host:10"), lambda _session, _job: [])
    trails = [row.trail for row in _listed(world, job_id)]
    assert [(one.number, one.worker, one.outcome) for one in trails[2]] == [
        (1, "host:7", AttemptOutcome.FAILED),
        (2, "host:8", AttemptOutcome.RETURNED),
        (2, "host:9", AttemptOutcome.LOST),
        (3, "host:10", AttemptOutcome.COMMITTED),
    ]
    assert [one.error for one in trails[2]] == [
        "RuntimeError: no memory",
        None,
        "The worker host:9 was lost in attempt 2: its lease ran out.",
        None,
    ]
    assert all(one.seconds is not None and one.started_at <= one.ended_at for one in trails[2])
    assert [trails[0], trails[1], trails[3]] == [[], [], []]


def test_only_the_last_attempts_of_a_long_trail_are_listed(world, job_id: UUID) -> None:
    unit = world.units(job_id, Stage.FINE)[0]
    for number in range(23):
        claims.release(world.sessions, world.must_claim(unit.id, f"host:{number}"))
    row = _listed(world, job_id)[1]
    assert [one.worker for one in row.trail] == [f"host:{number}" for number in range(3, 23)]
    assert row.attempt == 0


def test_units_are_filtered_by_state_and_tracebacks_are_returned_only_on_request(world, job_id: UUID) -> None:
    unit = world.units(job_id, Stage.FINE)[1]
    claims.fail(world.sessions, world.must_claim(unit.id), MediaRejected("can't be decoded"), world.settings)
    (row,) = _listed(world, job_id, state=UnitState.DEAD, traced=True)
    assert row.id == unit.id
    assert row.seconds is not None
    assert (row.traceback or "").rstrip().endswith("can't be decoded")
    assert _listed(world, job_id, state=UnitState.DEAD)[0].traceback is None
    assert _listed(world, job_id, state=UnitState.DONE) == []


def test_tracebacks_are_hidden_from_accounts_that_may_only_see_the_job(world, job_id: UUID) -> None:
    unit = world.units(job_id, Stage.FINE)[1]
    claims.fail(world.sessions, world.must_claim(unit.id), MediaRejected("can't be decoded"), world.settings)
    with transaction(world.sessions) as session:
        viewer = Actor.unlimited(accounts.create_user(session, "bob", "a-long-password"))
        session.execute(sa.update(Collection).values(visibility=Visibility.EVERYONE))
    with transaction(world.sessions) as session:
        (row,) = attempts(session, viewer, job_id, state=UnitState.DEAD, traced=True)
    assert row.error == "can't be decoded"
    assert row.traceback is None


def test_an_account_that_may_not_see_the_job_cannot_list_its_units(world, job_id: UUID) -> None:
    with transaction(world.sessions) as session:
        other = Actor.unlimited(accounts.create_user(session, "bob", "a-long-password"))
    with transaction(world.sessions) as session, pytest.raises(NotFound):
        attempts(session, other, job_id)
