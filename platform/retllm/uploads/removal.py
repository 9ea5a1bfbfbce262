"""Removes deleted collections, which nobody finds any more (``db.deletion``), piece by piece (design: media).

A transaction removes at most ``BATCH`` rows, with what hangs on each, and commits after it has deleted their files. So
the database has at any time what is still to be done, and whoever comes after a crash goes on; the rows of files that
were deleted just before are there again. What an attempt or a request still writes is swept later (``orphans``).
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast
from uuid import UUID

import sqlalchemy as sa
import structlog
from sqlalchemy.orm import Session

from retllm.db.base import Base
from retllm.db.counts import CollectionCount
from retllm.db.deletion import WITH_DELETED
from retllm.db.searches import Candidate, Search
from retllm.db.session import Sessions, run_transaction
from retllm.db.tables import Collection, Item, Job, Source, Unit
from retllm.db.uploads import LargeFile, Upload, UploadFile
from retllm.media import query_pictures
from retllm.media.ingest import delete_files
from retllm.media.storage import Storage
from retllm.uploads.large_files import folder_of
from retllm.uploads.receive import folder_of_upload

log = structlog.get_logger(__name__)

EVERY_SECONDS = 5.0
"""How often a dispatcher looks for deleted collections."""
BATCH = 200
"""Maximum number of rows that one transaction removes, not counting those that hang on them."""

# where a row is in its table: many rows are found by that without an index
_PLACE: sa.ColumnElement[Any] = sa.literal_column("ctid")


def remove_deleted(sessions: Sessions, storage: Storage) -> int:
    """Remove all deleted collections from database and storage; return the number of deleted files."""
    files = 0
    while (some := run_transaction(sessions, partial(_remove_some, storage=storage))) is not None:
        files += some
    return files


def _remove_some(session: Session, storage: Storage) -> int | None:
    """Remove a batch of a deleted collection; return the number of its files, None if there is no such collection.

    The lock keeps other dispatchers away. It is not taken as long as transactions go on that began before the deletion.
    """
    gone = sa.select(Collection.id).where(Collection.deleted_at.is_not(None)).order_by(Collection.deleted_at).limit(1)
    locked = gone.with_for_update(skip_locked=True).execution_options(**WITH_DELETED)
    collection_id = session.scalar(locked)
    if collection_id is None:
        return None
    batch = _Batch(session)
    batch.remove_contents(collection_id)
    if batch.left:
        batch.remove(Collection, Collection.id == collection_id)
        log.info("collection.removed", collection_id=str(collection_id))
    delete_files(storage, batch.files)
    for folder in batch.folders:
        storage.delete_folder(folder)
    return len(batch.files)


class _Batch:
    """Rows that one transaction removes: how many more it may, and the files and folders that go with them."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.left = BATCH
        self.files: list[str] = []
        self.folders: list[str] = []

    def remove_contents(self, collection_id: UUID) -> None:
        """Remove what is in a collection; if more rows may be removed after that, nothing is left in it."""
        jobs = sa.select(Job.id).where(Job.collection_id == collection_id).order_by(Job.id).limit(1)
        while self.left and (job_id := self._session.scalar(jobs.execution_options(**WITH_DELETED))):
            self._remove_job(job_id)
        files = (Item.picture_key, Item.thumbnail_key, Item.copy_key)
        self.files += self.remove(Item, Item.collection_id == collection_id, *files)
        self.files += self.remove(Source, Source.collection_id == collection_id, Source.file_key)
        self.remove(CollectionCount, CollectionCount.collection_id == collection_id)

    def _remove_job(self, job_id: UUID) -> None:
        self.files += self.remove(UploadFile, UploadFile.job_id == job_id, UploadFile.file_key)
        self.remove(Unit, Unit.job_id == job_id)
        self.remove(Candidate, Candidate.search_id == job_id)
        for key in self.remove(Search, Search.id == job_id, Search.query_picture_key):
            folder = query_pictures.folder_of(key)
            if folder is None:
                self.files.append(key)
            else:
                self.folders.append(folder)
        self.folders += map(folder_of, self.remove(LargeFile, LargeFile.job_id == job_id, LargeFile.id))
        self.folders += map(folder_of_upload, self.remove(Upload, Upload.id == job_id, Upload.id))
        self.remove(Job, Job.id == job_id)

    def remove(self, table: type[Base], where: sa.ColumnElement[bool], *values: Any) -> list[Any]:
        """Remove rows of a table, as many as this transaction may; return their values that are not null."""
        if not self.left:
            return []
        rows = cast(sa.Table, table.__table__)
        some = sa.select(_PLACE).select_from(rows).where(where).limit(self.left)
        if table is UploadFile:
            # the last ones first, since an archive takes along what came in it
            some = some.order_by(UploadFile.id.desc())
        places = sa.any_(sa.func.array(some.scalar_subquery()))
        deletion = sa.delete(rows).where(_PLACE.op("=")(places)).returning(*values or (sa.literal(None),))
        removed = self._session.execute(deletion).all()
        self.left -= len(removed)
        return [value for row in removed for value in row if value is not None]
