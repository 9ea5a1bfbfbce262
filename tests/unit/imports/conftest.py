"""A folder that is imported into the collection of a test, whose units run in this process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from tests.unit.uploads.conftest import Uploads, context, uploads, world

from retllm.db.enums import FileStatus, ItemState
from retllm.db.imports import ImportedFile
from retllm.db.session import transaction
from retllm.db.tables import Item
from retllm.imports.allowing import allowed
from retllm.imports.found import Importable
from retllm.imports.missing import forget_missing, missing_items
from retllm.imports.scanning import Scan, scan
from retllm.imports.sending import Import
from retllm.media.ingest import delete_item

__all__ = ["context", "uploads", "world"]


@dataclass
class Imports:
    """Imports ``path`` into the collection of ``uploads``."""

    uploads: Uploads
    path: Path
    folder: Importable
    reference: bool = False
    jobs: list[UUID] = field(default_factory=list)

    def write(self, **files: bytes) -> None:
        for name, content in files.items():
            self.at(name).parent.mkdir(parents=True, exist_ok=True)
            self.at(name).write_bytes(content)

    def at(self, name: str) -> Path:
        return self.path / name.replace("__", "/").replace("_", ".")

    def scan(self, **options: Any) -> Scan:
        return scan(self.uploads.world.sessions, self.uploads.world.collection_id, self.folder, **options)

    def sending(self, found: Scan) -> Import:
        context = self.uploads.context
        return Import(context.sessions, context.storage, context.settings, self.folder, found, self.reference)

    def send(self, found: Scan) -> UUID:
        """Give what was found to an open upload; return its job."""
        job_id = self.uploads.open(expected=found.new + found.changed + found.rejected)
        self.jobs.append(job_id)
        sending = self.sending(found)
        sending.announce(job_id)
        sending.send(job_id, lambda _: None)
        return job_id

    def run(self, **options: Any) -> Scan:
        """Import what is new, if anything is, and process it."""
        found = self.scan(**options)
        if found.has_news:
            job_id = self.send(found)
            self.uploads.close(job_id)
            self.uploads.run(job_id)
        return found

    def statuses(self) -> dict[str, FileStatus]:
        """Return the outcomes of the last job."""
        return self.uploads.statuses(self.jobs[-1])

    def names(self) -> list[str]:
        """Return the names of the items, in order."""
        with self.uploads.world.sessions() as session:
            return sorted(session.scalars(sa.select(Item.name).where(Item.state == ItemState.READY)))

    def known(self) -> dict[bytes, ImportedFile]:
        with self.uploads.world.sessions() as session:
            return {row.path: row for row in session.scalars(sa.select(ImportedFile))}

    def remove_missing(self, found: Scan) -> None:
        """Delete what is missing, as the command does."""
        sessions, storage = self.uploads.world.sessions, self.uploads.context.storage
        with sessions() as session:
            missing = missing_items(session, self.uploads.world.collection_id, found, limit=100)
        for key in missing:
            with sessions() as session:
                delete_item(session, storage, session.get_one(Item, key))
        with transaction(sessions) as session:
            forget_missing(session, found)


@pytest.fixture
def imports(uploads: Uploads, tmp_path: Path) -> Iterator[Imports]:
    path = tmp_path / "Pictures"
    path.mkdir()
    with allowed(str(path), [str(tmp_path)]) as folder:
        yield Imports(uploads, path.resolve(), folder)
