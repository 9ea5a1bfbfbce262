"""An import that a worker does: an upload that takes its files itself, once, whatever happens in between."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from tests.factories import make_user
from tests.unit.uploads.conftest import Uploads, context, picture, uploads, world

from retllm.db.enums import JobState, Role
from retllm.db.jobs import Job
from retllm.db.session import transaction
from retllm.db.uploads import Upload
from retllm.errors import Conflict, Forbidden
from retllm.history import control
from retllm.identity.actor import Actor
from retllm.imports import sending
from retllm.imports.submit import ImportRequest, submit_import
from retllm.media.storage import Storage
from retllm.media_units import media_unit
from retllm.queue.worker import run_unit
from retllm.uploads.submit import close_idle

__all__ = ["context", "uploads", "world"]


@dataclass
class Jobs:
    """Submits imports of ``path``, and runs their units."""

    uploads: Uploads
    path: Path
    actor: Actor

    def submit(self, address: str | None = None, key: str | None = None, **options: Any) -> UUID:
        world, settings = self.uploads.world, self.uploads.context.settings
        asked = ImportRequest(address or str(self.path), **{"index": False, **options})
        with transaction(world.sessions) as session:
            return submit_import(session, self.actor, world.collection_id, asked, settings, key).job.id

    def run(self, job_id: UUID) -> None:
        while ready := self.uploads.ready(job_id):
            for unit in ready:
                run_unit(self.uploads.context, unit.id, media_unit)

    def job(self, job_id: UUID) -> Job:
        with self.uploads.world.sessions() as session:
            return session.get_one(Job, job_id)

    def is_open(self, job_id: UUID) -> bool:
        with self.uploads.world.sessions() as session:
            return session.get_one(Upload, job_id).closed_at is None


@pytest.fixture
def jobs(uploads: Uploads, tmp_path: Path) -> Jobs:
    path = tmp_path / "Pictures"
    path.mkdir()
    for n in range(3):
        (path / f"{n}.png").write_bytes(picture(n))
    roots = (str(tmp_path),)
    settings = uploads.context.settings.model_copy(update={"import_roots": roots, "backoff_seconds": 0})
    storage = Storage(uploads.context.storage.url, roots)
    uploads.context = replace(uploads.context, settings=settings, storage=storage)
    root = make_user("root", role=Role.ADMIN)
    with transaction(uploads.world.sessions) as session:
        session.add(root)
    return Jobs(uploads, path, Actor.unlimited(root))


def test_a_job_imports_what_is_new_and_ends(jobs: Jobs) -> None:
    job_id = jobs.submit()
    assert jobs.is_open(job_id)
    jobs.run(job_id)
    assert jobs.job(job_id).state is JobState.SUCCEEDED
    assert sorted(jobs.uploads.items()) == [f"Pictures/{n}.png" for n in range(3)]
    assert not jobs.is_open(job_id)
    again = jobs.submit()
    jobs.run(again)
    assert jobs.job(again).state is JobState.SUCCEEDED
    assert jobs.uploads.rows(again) == {}
    jobs.uploads.check()


def test_originals_may_stay_where_they_are(jobs: Jobs) -> None:
    job_id = jobs.submit(reference=True)
    jobs.run(job_id)
    item = jobs.uploads.items()["Pictures/0.png"]
    assert item.original_path == b"Pictures/0.png"
    assert jobs.uploads.context.pictures.open(item)


def test_only_administrators_import_and_only_from_allowed_places(jobs: Jobs, tmp_path: Path) -> None:
    world = jobs.uploads.world
    with pytest.raises(Forbidden, match="RETLLM_IMPORT_ROOTS"):
        jobs.submit("/")
    with pytest.raises(Forbidden, match="RETLLM_IMPORT_ROOTS"):
        jobs.submit("s3://bucket/a/")
    owner = replace(jobs, actor=world.user)
    with pytest.raises(Forbidden, match="needs the role admin"):
        owner.submit()
    with world.sessions() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Job)) == 0


def test_a_repeated_request_is_one_job(jobs: Jobs) -> None:
    job_id = jobs.submit(key="once")
    assert jobs.submit(key="once") == job_id
    with pytest.raises(Conflict, match="different request"):
        jobs.submit(key="once", reference=True)
    assert len(jobs.uploads.ready(job_id)) == 1


def test_an_attempt_goes_on_where_one_ended(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = jobs.submit()
    store, stored = sending.Import._store, list[str]()

    def fail(self: sending.Import, job: UUID, row: Any, batch: Any) -> None:
        if len(stored) == 2:
            stored.append("")
            raise OSError("the disk is away")
        stored.append(row.name)
        store(self, job, row, batch)

    monkeypatch.setattr(sending, "_BATCH_FILES", 1)
    monkeypatch.setattr(sending.Import, "_store", fail)
    jobs.run(job_id)
    assert stored == ["Pictures/0.png", "Pictures/1.png", "", "Pictures/2.png"]
    assert jobs.job(job_id).state is JobState.SUCCEEDED
    assert len(jobs.uploads.rows(job_id)) == 3


def test_a_place_that_can_not_be_read_ends_the_job_and_a_retry_takes_it(jobs: Jobs) -> None:
    job_id = jobs.submit()
    away = jobs.path.rename(jobs.path.parent / "away")
    jobs.run(job_id)
    job = jobs.job(job_id)
    assert job.state is JobState.FAILED
    assert "What is imported is not there" in str(job.error)
    # all who see the collection see the error
    assert str(jobs.path) not in str(job.error)
    assert not jobs.is_open(job_id)
    away.rename(jobs.path)
    with transaction(jobs.uploads.world.sessions) as session:
        control.retry_job(session, jobs.actor, job_id)
    jobs.run(job_id)
    assert jobs.job(job_id).state is JobState.SUCCEEDED
    assert len(jobs.uploads.items()) == 3


def test_no_error_of_a_job_says_where_the_folder_is(jobs: Jobs) -> None:
    jobs.run(jobs.submit())
    for file in jobs.path.iterdir():
        file.unlink()
    job_id = jobs.submit()
    jobs.run(job_id)
    error = str(jobs.job(job_id).error)
    assert error.startswith("What is imported has no files")
    assert str(jobs.path.parent) not in error
    assert "Pictures" not in str(jobs.job(job_id).params)


def test_a_cancelled_import_ends_and_a_later_one_takes_the_rest(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = jobs.submit()
    store = sending.Import._store

    def cancel(self: sending.Import, job: UUID, *arguments: Any) -> None:
        with transaction(jobs.uploads.world.sessions) as session:
            control.cancel_job(session, jobs.actor, job_id)
        store(self, job, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(sending.Import, "_store", cancel)
        jobs.run(job_id)
    assert jobs.job(job_id).state is JobState.CANCELLED
    assert jobs.uploads.items() == {}
    later = jobs.submit()
    jobs.run(later)
    assert len(jobs.uploads.items()) == 3


def test_an_import_that_waits_is_not_closed_as_idle(jobs: Jobs) -> None:
    job_id = jobs.submit()
    idle = jobs.uploads.open()
    with transaction(jobs.uploads.world.sessions) as session:
        session.execute(sa.update(Upload).values(active_at=sa.func.now() - timedelta(days=1)))
    close_idle(jobs.uploads.world.sessions, timedelta(hours=1))
    assert jobs.is_open(job_id)
    assert not jobs.is_open(idle)
