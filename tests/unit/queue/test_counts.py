"""The kept counts of units and files are right in every state that a transaction leaves, whoever writes."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session
from tests.factories import make_job, make_unit, store

from retllm.db.counts import OF_FILES, OF_UNITS, Counted, FileCount, UnitCount, merge
from retllm.db.enums import FileStatus, JobKind, Stage, UnitState
from retllm.db.jobs import Job, Unit
from retllm.db.session import transaction
from retllm.db.tables import new_id
from retllm.db.uploads import Upload, UploadFile
from retllm.errors import Incomplete
from retllm.history.file_counts import come, file_counts
from retllm.queue.audit import violations
from retllm.uploads.expected import NOTES, has_come
from retllm.uploads.unsent import count_arrived


def check(session: Session, counted: Counted) -> None:
    """Compare what is kept with what is there, also within a transaction."""
    session.flush()
    sums = [name for name in counted.sums if name != "changes"]
    added = ", ".join(f"sum({name})::bigint" for name in sums)
    of = f"FROM {counted.table.__tablename__} GROUP BY {counted.of} HAVING sum({sums[0]}) <> 0"
    kept = f"SELECT {counted.of}, {added} {of}"
    real = f"SELECT {counted.of}, {', '.join(f'{name}::bigint' for name in sums)} FROM ({counted.real}) AS found"
    there, right = (sorted(map(str, session.execute(sa.text(query)))) for query in (kept, real))
    assert there == right


@pytest.fixture
def jobs(world) -> list[UUID]:
    made = [make_job(world.user.id, world.collection_id, kind=JobKind.UPLOAD) for _ in range(2)]
    with transaction(world.sessions) as session:
        store(session, *made, *(Upload(id=job.id) for job in made))
    return [job.id for job in made]


def add_files(session: Session, job_id: UUID, chance: random.Random) -> None:
    told = {"size_bytes": chance.choice([None, 3]), "content": chance.choice([None, "pdf"])}
    code = chance.choice([None, "media_rejected", Incomplete.code, *NOTES])
    whole = UploadFile(id=new_id(), job_id=job_id, name="a/b.pdf", error_code=code, **told)
    session.add(whole)
    session.flush()
    for number in range(3):
        part = {"parent_id": whole.id, "entry": chance.choice([None, number]), "count": chance.randint(1, 3)}
        session.add(UploadFile(id=new_id(), job_id=job_id, name="p", status=chance.choice(list(FileStatus)), **part))


@pytest.mark.parametrize("seed", range(3))
def test_the_counts_follow_every_change(world, jobs: list[UUID], seed: int) -> None:
    chance = random.Random(seed)
    seq = iter(range(10_000))

    def some(column: Any) -> Any:
        return sa.func.abs(sa.func.hashtext(sa.cast(column, sa.Text))) % 3 == chance.randint(0, 2)

    def unit(session: Session) -> None:
        payload = {"items": [str(new_id()) for _ in range(chance.randint(0, 3))]}
        payload |= chance.choice([{}, {"pass": "again"}])
        session.add(make_unit(chance.choice(jobs), chance.choice(list(Stage)), seq=next(seq), payload=payload))

    def end(session: Session) -> None:
        state = chance.choice(list(UnitState))
        hours = sa.func.make_interval(0, 0, 0, 0, chance.randint(0, 5))
        values = {"state": state, "finished_at": sa.func.now() - hours, "attempt": Unit.attempt + 1}
        session.execute(sa.update(Unit).where(some(Unit.id)).values(values))

    changes: list[Callable[[Session], Any]] = [
        unit,
        unit,
        end,
        lambda session: session.execute(sa.update(Unit).values(payload={"items": ["a"]})),
        lambda session: session.execute(sa.update(Unit).values(lease_until=sa.func.now())),
        lambda session: session.execute(sa.delete(Unit).where(some(Unit.id), some(Unit.id))),
        lambda session: add_files(session, chance.choice(jobs), chance),
        lambda session: session.execute(
            sa.update(UploadFile).where(some(UploadFile.id)).values(status=chance.choice(list(FileStatus)))
        ),
        lambda session: session.execute(
            sa.delete(UploadFile).where(some(UploadFile.id), UploadFile.parent_id.is_not(None))
        ),
    ]
    for number in range(50):
        with world.sessions() as session:
            for _ in range(chance.randint(1, 3)):
                chance.choice(changes)(session)
                check(session, OF_UNITS)
                check(session, OF_FILES)
            session.rollback() if chance.random() < 0.2 else session.commit()
        if number % 7 == 0:
            merge(world.sessions)
        with world.sessions() as session:
            check(session, OF_UNITS)
            check(session, OF_FILES)
            assert_as_counted(session, jobs)
    assert [one for one in violations(world.sessions) if one.rule.endswith("counts_are_right")] == []


def assert_as_counted(session: Session, jobs: list[UUID]) -> None:
    found = file_counts(session, jobs)
    for job_id in jobs:
        inside = sa.select(sa.func.coalesce(sa.func.sum(UploadFile.count), 0)).where(UploadFile.job_id == job_id)
        for status in FileStatus:
            counts = found[job_id].counts if job_id in found else {}
            assert counts.get(status, 0) == session.scalar(inside.where(UploadFile.status == status))
        left_out = sa.and_(UploadFile.status == FileStatus.IGNORED, UploadFile.size_bytes.is_(None))
        # a sidecar that says nothing of its picture is ignored too, but has a kind
        is_clutter = sa.and_(UploadFile.status == FileStatus.IGNORED, UploadFile.content.is_(None))
        assert count_arrived(session, job_id) == session.scalar(inside.where(has_come(), ~is_clutter))
        assert come(session, job_id) == session.scalar(inside.where(UploadFile.parent_id.is_(None), ~left_out))


def counts_left(session: Session) -> int:
    return sum(session.scalar(sa.select(sa.func.count()).select_from(table)) or 0 for table in (UnitCount, FileCount))


def test_counts_go_with_their_job_also_if_a_unit_changes_meanwhile(world, jobs: list[UUID]) -> None:
    with transaction(world.sessions) as session:
        store(session, *(make_unit(job_id, Stage.MEDIA) for job_id in jobs))
        add_files(session, jobs[0], random.Random(0))
    merge(world.sessions)
    with world.sessions() as session:
        session.execute(sa.update(Unit).values(state=UnitState.DEAD))
        deletion = threading.Thread(target=lambda: world.in_transaction(lambda other: other.execute(sa.delete(Job))))
        deletion.start()
        deletion.join(0.3)
        session.commit()
        deletion.join(30)
        assert not deletion.is_alive()
    with world.sessions() as session:
        assert counts_left(session) == 0
    assert merge(world.sessions) == 0


def test_a_renewed_lease_changes_no_count_and_a_new_time_to_run_does(world, jobs: list[UUID]) -> None:
    with transaction(world.sessions) as session:
        store(session, make_unit(jobs[0], Stage.MEDIA))
    merge(world.sessions)

    def changes() -> int:
        with world.sessions() as session:
            return session.scalar(sa.select(sa.func.sum(UnitCount.changes))) or 0

    before = changes()
    world.in_transaction(lambda session: session.execute(sa.update(Unit).values(lease_until=sa.func.now())))
    assert changes() == before
    world.in_transaction(lambda session: session.execute(sa.update(Unit).values(run_after=sa.func.now())))
    assert changes() > before
