"""How long jobs and their stages took, without the time in which they lay before a retry."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa

from retllm.db.enums import AttemptOutcome, JobState, Stage
from retllm.db.jobs import Attempt, Job
from retllm.db.session import transaction
from retllm.history.control import retry_job
from retllm.history.job_views import job_view
from retllm.history.listing import JobFilters
from retllm.indexing.submit import submit_index
from retllm.queue import claim as claims
from retllm.search.export import Rows, rows

BEGAN = datetime(2026, 1, 31, 10, tzinfo=UTC)


@pytest.fixture
def job_id(world) -> UUID:
    """An index job of two units."""
    world.add_texts("red circle", "blue circle", "green circle")
    with transaction(world.sessions) as session:
        return submit_index(session, world.user, world.collection_id, world.settings).job.id


def _attempt(unit_id: UUID, number: int, begin: float, end: float | None) -> Attempt:
    ended = {} if end is None else {"ended_at": BEGAN + timedelta(seconds=end), "outcome": AttemptOutcome.FAILED}
    return Attempt(unit_id=unit_id, number=number, worker="w", started_at=BEGAN + timedelta(seconds=begin), **ended)


def test_the_time_of_a_stage_is_that_in_which_a_worker_was_at_it(world, job_id: UUID) -> None:
    first, second = (unit.id for unit in world.units(job_id, Stage.EMBED))
    attempts = [
        _attempt(first, 1, 0, 10),
        # at the same time: one within the other, and one that goes on
        _attempt(second, 1, 2, 4),
        _attempt(second, 2, 8, 12),
        # after a retry
        _attempt(second, 1, 7200, 7203),
        # still at it
        _attempt(first, 2, 7200, None),
    ]
    with transaction(world.sessions) as session:
        session.add_all(attempts)
        session.flush()
        (stage,) = job_view(session, session.get_one(Job, job_id)).stages
    assert stage.seconds == 12 + 3


def test_the_time_between_an_end_and_a_retry_is_not_part_of_the_duration(world, job_id: UUID) -> None:
    with transaction(world.sessions) as session:
        hour = sa.func.now() - timedelta(hours=1)
        ended = {"state": JobState.FAILED, "finished_at": hour, "created_at": hour - timedelta(seconds=40)}
        session.execute(sa.update(Job).where(Job.id == job_id).values(**ended))
    with transaction(world.sessions) as session:
        assert job_view(session, session.get_one(Job, job_id)).seconds == 40
        retry_job(session, world.user, job_id)
        assert job_view(session, session.get_one(Job, job_id)).seconds is None
    for unit in world.units(job_id):
        claims.complete(world.sessions, world.must_claim(unit.id), lambda _session, _job: [])
    with transaction(world.sessions) as session:
        job = job_view(session, session.get_one(Job, job_id))
    assert job.state is JobState.SUCCEEDED
    # and what the rest of this test took
    assert 40 <= job.seconds < 400
    (exported,) = rows(world.sessions, world.user, JobFilters(), Rows.JOBS)
    assert exported["seconds"] == pytest.approx(job.seconds)
