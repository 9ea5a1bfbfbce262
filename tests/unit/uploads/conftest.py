"""Uploads whose units a test runs in this process, on a database and a storage of its own."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from fsspec.core import url_to_fs
from PIL import Image
from tests.unit.job_world import World, context, world
from tests.unit.stand_ins import FakeEmbedder

from retllm.db.enums import FileStatus, Stage, UnitState
from retllm.db.jobs import Unit
from retllm.db.session import transaction
from retllm.db.tables import Item
from retllm.db.uploads import UploadFile
from retllm.indexing.worker import embed_unit
from retllm.media.outcomes import IncomingFile
from retllm.queue.audit import violations
from retllm.queue.audit_files import orphans
from retllm.queue.worker import LeasedUnit, WorkerContext, run_unit
from retllm.uploads import submit
from retllm.uploads.receive import receive
from retllm.uploads.worker import media_unit

__all__ = ["context", "world"]

Files = Mapping[str, bytes]


def picture(number: int, size: tuple[int, int] = (24, 16)) -> bytes:
    """Return a PNG of a colour of its own."""
    file = io.BytesIO()
    Image.new("RGB", size, (number % 256, number // 256, 77)).save(file, "PNG")
    return file.getvalue()


def packed(files: Files) -> bytes:
    """Return a ZIP."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


@dataclasses.dataclass
class Uploads:
    """Submits uploads into the collection of ``world``, and runs their units as a worker does."""

    world: World
    context: WorkerContext
    embedder: FakeEmbedder = dataclasses.field(default_factory=FakeEmbedder)

    def open(self, **options: Any) -> UUID:
        with transaction(self.world.sessions) as session:
            found = submit.open_upload(
                session, self.world.user, self.world.collection_id, self.context.settings, **options
            )
        return found.job.id

    def send(self, job_id: UUID, files: Files) -> list[UUID]:
        """Send files in one request; return the keys of their rows."""
        storage, settings = self.context.storage, self.context.settings
        received = [receive(storage, job_id, IncomingFile(n, io.BytesIO(c)), settings) for n, c in files.items()]
        with transaction(self.world.sessions) as session:
            submit.add_files(session, job_id, received)
        return [file.id for file in received]

    def close(self, job_id: UUID) -> None:
        with transaction(self.world.sessions) as session:
            submit.close_upload(session, job_id)

    def do(self, unit: Unit, context: WorkerContext | None = None) -> bool:
        return run_unit(context or self.context, unit.id, self._unit)

    def _unit(self, context: WorkerContext, held: LeasedUnit) -> Any:
        if held.claim.stage is Stage.MEDIA:
            return media_unit(context, held)
        return embed_unit(context, held, lambda _: self.embedder)

    def ready(self, job_id: UUID, stage: Stage | None = None) -> list[Unit]:
        return [unit for unit in self.world.units(job_id, stage) if unit.state is UnitState.READY]

    def run(self, job_id: UUID, stage: Stage | None = None) -> None:
        """Run the ready units, of one stage or of all, until there is none."""
        while ready := self.ready(job_id, stage):
            for unit in ready:
                assert self.do(unit)

    def upload(self, files: Files, **options: Any) -> UUID:
        """Open an upload, send files, close it and run its units."""
        job_id = self.open(**options)
        self.send(job_id, files)
        self.close(job_id)
        self.run(job_id)
        return job_id

    def rows(self, job_id: UUID) -> dict[str, UploadFile]:
        """Return the files, entries and rows by name."""
        with self.world.sessions() as session:
            found = session.scalars(sa.select(UploadFile).filter_by(job_id=job_id).order_by(UploadFile.id)).all()
        return {row.name: row for row in found}

    def statuses(self, job_id: UUID) -> dict[str, FileStatus]:
        return {name: row.status for name, row in self.rows(job_id).items()}

    def items(self) -> dict[str, Item]:
        with self.world.sessions() as session:
            return {item.name: item for item in session.scalars(sa.select(Item).order_by(Item.id))}

    def payloads(self, job_id: UUID, stage: Stage) -> list[dict[str, Any]]:
        return [unit.payload for unit in self.world.units(job_id, stage)]

    def stored(self, prefix: str) -> list[str]:
        """Return the keys of the stored files under a prefix."""
        fs, root = url_to_fs(self.context.storage.url)
        fs.invalidate_cache()
        keys = [str(path).removeprefix(f"{str(root).rstrip('/')}/") for path in fs.find(root)]
        return sorted(key for key in keys if key.startswith(prefix))

    def check(self, *, left: Callable[[str], bool] = lambda _: False) -> None:
        """Assert that every rule holds on this idle system, and that all files have a row, except those ``left``."""
        assert [str(one) for one in violations(self.world.sessions, self.context.storage, quiet=True)] == []
        with self.world.sessions() as session:
            assert [key for key in orphans(session, self.context.storage) if not left(key)] == []


@pytest.fixture
def uploads(world: World, context: WorkerContext, tmp_path: Path) -> Uploads:
    return Uploads(world, context)
