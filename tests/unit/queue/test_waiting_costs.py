"""Finding the next units reads no more rows when many wait: of the same job, or for another scorer."""

from __future__ import annotations

import sys
from collections.abc import Callable
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session
from tests.factories import make_job, make_search, store
from tests.unit.job_world import World

from retllm.db.enums import Stage
from retllm.db.jobs import Unit
from retllm.db.session import transaction
from retllm.queue.ready import in_turn, take_ready, tried_of, users_in_turn
from retllm.queue.routing import Routing

ROUTING = Routing(("other",))
MANY = 20_000
WANTED = 8
# of each job that waits, at most as many as are wanted; and what the indexes read beside
MOST = 10 * WANTED


def add_job(world: World, scorer: str, stage: Stage, units: int) -> UUID:
    """Add a job with ready units; those of one job have waited for the same time."""
    with transaction(world.sessions) as session:
        job = make_job(world.user.id, world.collection_id)
        store(session, job, make_search(job.id, scorer=scorer))
        session.execute(
            sa.text(
                "INSERT INTO units (id, job_id, user_id, stage, scorer, seq, state, payload, attempt) "
                "SELECT gen_random_uuid(), :job, :user, :stage, :scorer, n, 'ready', '{\"items\": [1]}', 0 "
                "FROM generate_series(1, :units) n"
            ),
            {
                "job": job.id,
                "user": job.user_id,
                "stage": stage,
                "scorer": scorer if stage is Stage.FINE else "",
                "units": units,
            },
        )
        return job.id


def rows_read(world: World, call: Callable[[Session], object]) -> int:
    """Return how many rows of the table and of its indexes a call reads, the least of several times.

    What other processes leave behind for a while, like a plan or rows that only they see, is not what is asked for:
    a cost that grows with the units that wait is there each time.
    """
    least = sys.maxsize
    for _ in range(5):
        world.settle_units()
        least = min(least, _rows_read(world, call))
        if least <= MOST:
            break
    return least


def _rows_read(world: World, call: Callable[[Session], object]) -> int:
    tables = sa.text(
        "SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables WHERE relname = 'units'"
    )
    indexes = sa.text(
        "SELECT sum(pg_stat_get_xact_tuples_returned(indexrelid)) FROM pg_index WHERE indrelid = 'units'::regclass"
    )
    with transaction(world.sessions) as session:
        before = [session.scalar(query) or 0 for query in (tables, indexes)]
        call(session)
        session.flush()
        after = [session.scalar(query) or 0 for query in (tables, indexes)]
        session.rollback()
    return int(sum(after) - sum(before))


@pytest.mark.parametrize("queue", ["score", "score:other"])
def test_units_of_another_scorer_cost_nothing(world: World, queue: str) -> None:
    own, others = ("scorer", "other") if queue == "score" else ("other", "scorer")
    add_job(world, others, Stage.FINE, MANY)
    job = add_job(world, own, Stage.FINE, WANTED + 1)
    found: list[UUID] = []

    def turn(session: Session) -> None:
        users = users_in_turn(session, ROUTING, queue, [])
        found[:] = [row[0] for row in in_turn(session, ROUTING, queue, WANTED, users)]

    assert rows_read(world, turn) <= MOST
    assert len(found) == WANTED
    assert {unit.id for unit in world.units(job)} > set(found)
    assert rows_read(world, lambda session: take_ready(session, ROUTING, queue, WANTED)) <= MOST


@pytest.mark.parametrize("stage", [Stage.EMBED, Stage.FINE])
def test_more_units_of_the_same_job_cost_nothing(world: World, stage: Stage) -> None:
    queue = ROUTING.queue_of(stage)
    add_job(world, "scorer", stage, MANY)
    later = add_job(world, "scorer", stage, 1)
    found: list[UUID] = []

    def turn(session: Session) -> None:
        users = users_in_turn(session, ROUTING, queue, [])
        found[:] = [row[0] for row in in_turn(session, ROUTING, queue, WANTED, users)]

    assert rows_read(world, turn) <= MOST
    assert world.units(later)[0].id in found[:2], "jobs take turns"
    assert rows_read(world, lambda session: take_ready(session, ROUTING, queue, WANTED)) <= MOST


def test_units_that_wait_for_their_next_attempt_cost_nothing(world: World) -> None:
    waiting = add_job(world, "scorer", Stage.FINE, MANY)
    due = add_job(world, "scorer", Stage.FINE, 2)
    with transaction(world.sessions) as session:
        later = sa.func.now() + sa.text("interval '1 hour'")
        session.execute(sa.update(Unit).where(Unit.job_id == waiting).values(attempt=1, run_after=later))
        session.execute(sa.update(Unit).where(Unit.job_id == due).values(attempt=1))
    found: list[UUID] = []

    def turn(session: Session) -> None:
        (user,) = users_in_turn(session, ROUTING, "score", [])
        found[:] = tried_of(session, ROUTING, "score", user, WANTED)

    assert rows_read(world, turn) <= MOST
    assert set(found) == {unit.id for unit in world.units(due)}
    with transaction(world.sessions) as session:
        session.execute(sa.delete(Unit).where(Unit.job_id == due))
        assert users_in_turn(session, ROUTING, "score", []) == []


@pytest.mark.parametrize("of_one_job", [True, False])
def test_units_that_wait_for_a_server_cost_nothing_and_are_claimed_when_they_are_due(
    world: World, of_one_job: bool
) -> None:
    away = "interval '1 hour'"
    waiting = add_job(world, "scorer", Stage.FINE, MANY)
    due = add_job(world, "scorer", Stage.FINE, 3)
    new = add_job(world, "scorer", Stage.FINE, 2)
    with transaction(world.sessions) as session:
        later = sa.func.now() + sa.text(away)
        session.execute(sa.update(Unit).where(Unit.job_id != new).values(waits_until=later))
        session.execute(sa.update(Unit).where(Unit.job_id == waiting).values(run_after=later))
        if not of_one_job:
            session.execute(sa.text(_A_JOB_FOR_EACH), {"job": waiting})
    found: list[UUID] = []

    def turn(session: Session) -> None:
        for untried in (True, False):
            users = users_in_turn(session, ROUTING, "score", [], untried=untried)
            found[:] = [row[0] for row in in_turn(session, ROUTING, "score", WANTED, users)]

    assert rows_read(world, turn) <= MOST
    expected = [unit.id for job in (due, new) for unit in world.units(job)]
    assert sorted(found) == sorted(expected)
    # jobs take turns
    assert len({unit.job_id for job in (due, new) for unit in world.units(job) if unit.id in found[:2]}) == 2
    with transaction(world.sessions) as session:
        session.execute(sa.delete(Unit).where(Unit.job_id.in_([due, new])))
        assert users_in_turn(session, ROUTING, "score", []) == []


_A_JOB_FOR_EACH = """
    WITH made AS (
        INSERT INTO jobs (id, user_id, collection_id, kind, params, state, cancel_requested)
        SELECT u.id, u.user_id, j.collection_id, j.kind, j.params, j.state, j.cancel_requested
        FROM units u JOIN jobs j ON j.id = u.job_id WHERE j.id = :job AND u.seq <= 2000 RETURNING id
    )
    UPDATE units SET job_id = made.id FROM made WHERE units.id = made.id
"""
