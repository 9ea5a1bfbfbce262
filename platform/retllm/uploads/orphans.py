"""Deletes stored files that no row names: those of requests and workers that were killed, and of deleted jobs.

Every folder, and every file of an upload, is named after a UUID v7, which tells its age. What is younger than ``AGE``
may still be written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TypeVar
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.deletion import WITH_DELETED
from retllm.db.enums import FileStatus
from retllm.db.jobs import Job
from retllm.db.searches import Search
from retllm.db.session import Sessions, transaction
from retllm.db.tables import Item, Source
from retllm.db.uploads import UNPACKED, LargeFile, Upload, UploadFile
from retllm.media.storage import Storage

AGE = timedelta(days=1)
"""No request and no attempt takes this long."""
_BATCH = 1000
_UUID_LENGTH = 36

Key = TypeVar("Key")
Named = Callable[[Session, list[UUID]], set[UUID]]


def delete_orphans(sessions: Sessions, storage: Storage, *, age: timedelta = AGE) -> int:
    """Delete the folders of pictures, whole files and uploads that no row names, and files of uploads that none names.

    Returns:
        The number of folders and files.
    """
    deleted = 0
    before = datetime.now(UTC) - age
    prefixes: list[tuple[str, Named]] = [("queries", _searches), ("uploads", _uploads), ("parts", _large_files)]
    sources, items = _unless_attempted(_sources, before), _unless_attempted(_items, before)
    prefixes += [(f"sources/{part}", sources) for part in storage.folders("sources")]
    prefixes += [(f"items/{part}", items) for part in storage.folders("items")]
    for prefix, named in prefixes:
        for batch in _batches(_old(storage.folders(prefix), before)):
            with transaction(sessions) as session:
                known = named(session, batch)
            for key in set(batch) - known:
                storage.delete_folder(f"{prefix}/{key}")
                deleted += 1
            if prefix == "uploads":
                deleted += sum(_delete_files(sessions, storage, f"{prefix}/{key}", before) for key in known)
    return deleted


def _delete_files(sessions: Sessions, storage: Storage, folder: str, before: datetime) -> int:
    """Delete the files in the folder of an upload that no row names, and return their number.

    Others in it are kept, maybe for long; a worker that was killed when it had made an item left the file of that.
    """
    old = (name for name in storage.files(folder) if any(_old([name[:_UUID_LENGTH]], before)))
    deleted = 0
    for names in _batches(old):
        keys = [f"{folder}/{name}" for name in names]
        # the other form of an archive belongs to the archive until that is listed, and then in its place
        forms = {form for key in keys for form in (key, key.removesuffix(UNPACKED))}
        with transaction(sessions) as session:
            kept = set(session.scalars(sa.select(UploadFile.file_key).where(UploadFile.file_key.in_(forms))))
        left = [key for key in keys if not kept & {key, key.removesuffix(UNPACKED)}]
        storage.delete_all(left)
        deleted += len(left)
    return deleted


def _old(names: Iterable[str], before: datetime) -> Iterator[UUID]:
    for name in names:
        try:
            key = UUID(name)
        except ValueError:
            continue
        # the first 48 bits of a UUID v7 are milliseconds since 1970
        if key.version == 7 and datetime.fromtimestamp((key.int >> 80) / 1000, UTC) < before:
            yield key


def _batches(keys: Iterator[Key]) -> Iterator[list[Key]]:
    while batch := list(islice(keys, _BATCH)):
        yield batch


def _unless_attempted(named: Named, before: datetime) -> Named:
    """Return all keys while a file from before that time waits: an attempt may be writing its items just now."""
    earlier = UploadFile.id < UUID(int=int(before.timestamp() * 1000) << 80)
    waiting = (
        sa.select(UploadFile.id)
        .join(Job, Job.id == UploadFile.job_id)
        .where(UploadFile.status == FileStatus.WAITING, earlier, Job.finished_at.is_(None))
    )

    def known(session: Session, keys: list[UUID]) -> set[UUID]:
        # asked first: an attempt that ends after that has named its files
        return named(session, keys) if session.scalar(waiting.limit(1)) is None else set(keys)

    return known


def _items(session: Session, keys: list[UUID]) -> set[UUID]:
    query = sa.select(Item.id).where(Item.id.in_(keys), Item.picture_key.is_not(None))
    return set(session.scalars(query.execution_options(**WITH_DELETED)))


def _sources(session: Session, keys: list[UUID]) -> set[UUID]:
    query = sa.select(Source.id).where(Source.id.in_(keys))
    return set(session.scalars(query.execution_options(**WITH_DELETED)))


def _searches(session: Session, keys: list[UUID]) -> set[UUID]:
    pictures = [f"queries/{key}/picture" for key in keys]
    found = session.scalars(sa.select(Search.query_picture_key).where(Search.query_picture_key.in_(pictures)))
    return {UUID(key.split("/")[1]) for key in found if key}


def _large_files(session: Session, keys: list[UUID]) -> set[UUID]:
    """Return the keys of files that are not whole yet; of others a killed request may have left parts."""
    return set(session.scalars(sa.select(LargeFile.id).where(LargeFile.id.in_(keys), LargeFile.file_id.is_(None))))


def _uploads(session: Session, keys: list[UUID]) -> set[UUID]:
    """Return the keys of uploads that are open, or of which bytes are kept."""
    uploads = sa.select(Upload.id).where(Upload.id.in_(keys))
    kept = sa.select(UploadFile.id).where(UploadFile.job_id == Upload.id, UploadFile.file_key.is_not(None))
    return set(session.scalars(uploads.where(sa.or_(Upload.closed_at.is_(None), kept.exists()))))
