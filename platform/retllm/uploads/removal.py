"""Removes deleted collections, which nobody finds any more (``db.deletion``), piece by piece (design: media).

Those in the trash are left alone until their time is over.

A transaction removes at most ``BATCH`` rows, with what hangs on each, and commits after it has deleted their files. So
the database has at any time what is still to be done, and whoever comes after a crash goes on; the rows of files that
were deleted just before are there again. What an attempt or a request still writes is swept later (``orphans``).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any, cast
from uuid import UUID

import sqlalchemy as sa
import structlog
from sqlalchemy.orm import Session, aliased

from retllm.db.base import Base
from retllm.db.counts import CollectionCount
from retllm.db.deletion import WITH_DELETED
from retllm.db.duplicates import Dismissal, DuplicateGroup, DuplicateMember, SimilarPair
from retllm.db.imports import ImportedFile, ImportedFolder
from retllm.db.jobs import Job, Unit
from retllm.db.maps import MapPoint
from retllm.db.people import ShareLink
from retllm.db.searches import Candidate, Search, SearchCollection
from retllm.db.session import Sessions, run_transaction
from retllm.db.tables import Collection, Item, Source
from retllm.db.uploads import LargeFile, Upload, UploadFile
from retllm.media import query_pictures
from retllm.media.ingest import delete_files
from retllm.media.storage import Storage
from retllm.media.trash import let_go
from retllm.uploads.large_files import folder_of
from retllm.uploads.receive import folder_of_upload

log = structlog.get_logger(__name__)

EVERY_SECONDS = 5.0
"""How often a dispatcher looks for deleted collections."""
BATCH = 200
"""Maximum number of rows that one transaction removes, not counting those that hang on them."""
# collections that take turns
_AT_ONCE = 100
_FIRST_SECONDS, _LONGEST_SECONDS, _DOUBLINGS = 30.0, 3600.0, 10

# where a row is in its table: many rows are found by that without an index
_PLACE: sa.ColumnElement[Any] = sa.literal_column("ctid")


class Postponed:
    """Collections whose removal failed: each is tried again later, and later each time. For one thread."""

    def __init__(self) -> None:
        self._failed: dict[UUID, tuple[int, float]] = {}

    def now(self) -> list[UUID]:
        """Return the collections that are not to be tried yet."""
        now = time.monotonic()
        return [collection_id for collection_id, (_, until) in self._failed.items() if until > now]

    def add(self, collection_id: UUID) -> float:
        """Postpone a removal that failed; return for how many seconds."""
        failures = self._failed.get(collection_id, (0, 0.0))[0]
        seconds = min(_LONGEST_SECONDS, _FIRST_SECONDS * 2.0 ** min(failures, _DOUBLINGS))
        self._failed[collection_id] = failures + 1, time.monotonic() + seconds
        return seconds

    def forget(self, collection_id: UUID) -> None:
        """Count the failures of a removal that succeeds from 0 again."""
        self._failed.pop(collection_id, None)


def remove_deleted(sessions: Sessions, storage: Storage, postponed: Postponed | None = None) -> int:
    """Remove deleted collections from database and storage; return the number of deleted files.

    They take turns: each loses a batch in a round, so that a small one does not wait for the end of a large one. One
    that can't be removed is passed over.

    Args:
        postponed: what is passed over, also by later calls.
    """
    postponed = postponed or Postponed()
    _let_go(sessions)
    files = 0
    while in_turn := _in_turn(sessions, postponed.now()):
        removed = [_attempt(sessions, storage, collection_id, postponed) for collection_id in in_turn]
        if set(removed) == {None}:
            break
        files += sum(filter(None, removed))
    return files


def _let_go(sessions: Sessions) -> None:
    """Begin the removal of the collections whose time in the trash is over."""
    over = Collection.kept_until <= sa.func.now()
    first = sa.select(Collection.id).where(Collection.deleted_at.is_not(None), over).limit(1)
    with sessions() as session:
        found = session.scalar(first.execution_options(**WITH_DELETED))
    if found is not None:
        run_transaction(sessions, lambda session: let_go(session, over))


_IN_REMOVAL = Collection.deleted_at.is_not(None), Collection.kept_until.is_(None)


def _in_turn(sessions: Sessions, postponed: list[UUID]) -> Sequence[UUID]:
    gone = sa.select(Collection.id).where(*_IN_REMOVAL, Collection.id.not_in(postponed))
    first = gone.order_by(Collection.deleted_at).limit(_AT_ONCE).execution_options(**WITH_DELETED)
    with sessions() as session:
        return session.scalars(first).all()


def _attempt(sessions: Sessions, storage: Storage, collection_id: UUID, postponed: Postponed) -> int | None:
    """Remove a batch of a deleted collection; return as ``_remove_some`` does, also None if that fails."""
    try:
        removed = run_transaction(sessions, partial(_remove_some, storage=storage, collection_id=collection_id))
    except Exception:  # noqa: BLE001, RUF100 - each kind of storage raises its own errors
        seconds = postponed.add(collection_id)
        log.warning("collection.not_removed", collection_id=str(collection_id), retry_after=seconds, exc_info=True)
        return None
    postponed.forget(collection_id)
    return removed


def _remove_some(session: Session, storage: Storage, collection_id: UUID) -> int | None:
    """Remove a batch of a deleted collection; return the number of its files, None if it is removed by another.

    The lock keeps other dispatchers away. It is not taken as long as transactions go on that began before the deletion.
    """
    gone = sa.select(Collection.id).where(*_IN_REMOVAL, Collection.id == collection_id)
    locked = gone.with_for_update(skip_locked=True).execution_options(**WITH_DELETED)
    if session.scalar(locked) is None:
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


def _only_there(collection_id: UUID) -> sa.Select[UUID]:
    """Select a search of several collections of which all are deleted, among them this one."""
    other = aliased(SearchCollection)
    others = sa.select(other.search_id).join(Collection, Collection.id == other.collection_id)
    others = others.where(other.search_id == SearchCollection.search_id, Collection.deleted_at.is_(None))
    query = sa.select(SearchCollection.search_id).where(SearchCollection.collection_id == collection_id)
    return query.where(~others.correlate(SearchCollection).exists()).order_by(SearchCollection.search_id).limit(1)


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
        for theirs in (jobs, _only_there(collection_id)):
            while self.left and (job_id := self._session.scalar(theirs.execution_options(**WITH_DELETED))):
                self._remove_job(job_id)
        self.remove(ShareLink, ShareLink.collection_id == collection_id)
        groups = sa.select(DuplicateGroup.id).where(DuplicateGroup.collection_id == collection_id)
        self.remove(DuplicateMember, DuplicateMember.group_id.in_(groups))
        self.remove(DuplicateGroup, DuplicateGroup.collection_id == collection_id)
        self.remove(Dismissal, Dismissal.collection_id == collection_id)
        self.remove(MapPoint, MapPoint.collection_id == collection_id)
        files = (Item.picture_key, Item.thumbnail_key, Item.copy_key)
        self.files += self.remove(Item, Item.collection_id == collection_id, *files)
        self.files += self.remove(Source, Source.collection_id == collection_id, Source.file_key)
        folders = sa.select(ImportedFolder.id).where(ImportedFolder.collection_id == collection_id)
        self.remove(ImportedFile, ImportedFile.folder_id.in_(folders))
        self.remove(CollectionCount, CollectionCount.collection_id == collection_id)
        # the last, since a search of others too lacks these candidates from the deletion on
        self.remove(SearchCollection, SearchCollection.collection_id == collection_id)

    def _remove_job(self, job_id: UUID) -> None:
        self.files += self.remove(UploadFile, UploadFile.job_id == job_id, UploadFile.file_key)
        self.remove(Unit, Unit.job_id == job_id)
        self.remove(SimilarPair, SimilarPair.job_id == job_id)
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
