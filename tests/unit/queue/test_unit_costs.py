"""Ending a unit of a large job reads no more rows than ending one of a small job, and many are stored at once."""

from __future__ import annotations

from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import JobState, Stage, UnitState
from retllm.db.jobs import Job, Unit
from retllm.db.session import transaction
from retllm.indexing.submit import submit_index
from retllm.queue import lifecycle
from retllm.uploads.submit import close_upload, open_upload

_ROWS_READ = sa.text(
    "SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables WHERE relname = 'units'"
)


def add_units(session: Session, job_id: UUID, ended: int) -> None:
    """Add units that are over to a job, and an open one at the end, as when they are done one after the other."""
    session.execute(
        sa.text(
            "INSERT INTO units (id, job_id, stage, seq, state, payload, attempt) SELECT gen_random_uuid(), :job, "
            "'media', 1000 + n, CASE WHEN n = :ended THEN 'ready' ELSE 'done' END, '{\"items\": []}', 1 "
            "FROM generate_series(0, :ended) n"
        ),
        {"job": job_id, "ended": ended},
    )


def rows_read(session: Session, job_id: UUID) -> int:
    """Return how many rows of units it reads to end one of a job that has an open one."""
    job = session.get_one(Job, job_id)
    before = session.scalar(_ROWS_READ) or 0
    assert lifecycle.finish_if_complete(session, job) == []
    assert job.finished_at is None
    return (session.scalar(_ROWS_READ) or 0) - before


@pytest.mark.parametrize("kind", ["index", "upload"])
def test_the_rows_read_do_not_grow_with_the_job(world, kind: str) -> None:
    world.add_texts("a")
    with transaction(world.sessions) as session:
        if kind == "index":
            job_id = submit_index(session, world.user, world.collection_id, world.settings).job.id
        else:
            job_id = open_upload(session, world.user, world.collection_id, world.settings).job.id
        add_units(session, job_id, 10_000)
        if kind == "upload":
            close_upload(session, job_id)
    with world.sessions.kw["bind"].connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("ANALYZE units"))
    with world.sessions() as session:
        assert rows_read(session, job_id) <= 2


def test_the_end_counts_all_units(world) -> None:
    world.add_texts("a")
    with transaction(world.sessions) as session:
        job = submit_index(session, world.user, world.collection_id, world.settings).job
        add_units(session, job.id, 20)
    with transaction(world.sessions) as session:
        session.execute(sa.update(Unit).where(Unit.job_id == job.id).values(state=UnitState.DONE))
        session.execute(sa.update(Unit).where(Unit.job_id == job.id, Unit.seq == 1005).values(state=UnitState.DEAD))
        ended = session.get_one(Job, job.id)
        lifecycle.finish_if_complete(session, ended)
        assert ended.state is JobState.PARTIAL


def test_all_units_that_are_added_are_stored_at_once_and_the_first_ones_are_notified_of(world) -> None:
    world.add_texts("a")
    stored: list[str] = []
    with transaction(world.sessions) as session:
        job = submit_index(session, world.user, world.collection_id, world.settings).job

        def note(_connection, _cursor, statement, *_rest) -> None:
            if statement.startswith("INSERT INTO units"):
                stored.append(statement)

        sa.event.listen(session.get_bind(), "before_cursor_execute", note)
        opened = lifecycle.add_units(session, job, Stage.EMBED, [{"items": []}] * 200, first_seq=1)
        sa.event.remove(session.get_bind(), "before_cursor_execute", note)
    assert len(stored) <= 2
    with world.sessions() as session:
        units = session.scalars(sa.select(Unit).where(Unit.job_id == job.id, Unit.seq >= 1).order_by(Unit.seq)).all()
    assert [unit.seq for unit in units] == list(range(1, 201))
    assert [unit.id for unit in units if unit.announced_at is not None] == [one.unit_id for one in opened]
    assert [unit.id for unit in units[: len(opened)]] == [one.unit_id for one in opened]
    assert 0 < len(opened) < 200
