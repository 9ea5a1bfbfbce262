"""Compares an imported folder with what is known of it: what is new, changed or gone since the last run.

What the next job has to take is ``pending`` in the database, and stays so until that job has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, BinaryIO, cast
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from retllm.db.enums import FileStatus
from retllm.db.imports import ImportedFile, ImportedFolder
from retllm.db.locks import lock_collection
from retllm.db.many import one_of
from retllm.db.session import Sessions, run_transaction, transaction
from retllm.db.tables import new_id
from retllm.db.uploads import UploadFile
from retllm.errors import Conflict, InvalidInput
from retllm.imports.found import Importable, Listed, OpenedWhole
from retllm.media import streams
from retllm.media.clutter import ClutterCount
from retllm.media.local_files import Unreadable
from retllm.media.outcomes import FileOutcome

_BATCH = 500
IS_READABLE = sa.and_(ImportedFile.error.is_(None), ImportedFile.remark.is_(None))


@dataclass(frozen=True)
class Scan:
    """What a run found in a folder.

    Attributes:
        folder_id, run: the folder, and the number of this run.
        files: how many files are there, without clutter and what is left out.
        new, changed: how many of them the next job has to take, ``size`` bytes together.
        rejected, left_out: of how many others the next job has to tell why they are not taken.
        gone: how many imported files are not there any more.
        clutter: the outcomes of clutter.
    """

    folder_id: UUID
    run: int
    files: int
    new: int
    changed: int
    size: int
    rejected: int
    left_out: int
    gone: int
    clutter: list[FileOutcome]

    @property
    def has_news(self) -> bool:
        """Whether there is something for a job."""
        return any((self.new, self.changed, self.rejected, self.left_out))


@contextmanager
def alone(sessions: Sessions, collection_id: UUID, folder: Importable) -> Iterator[None]:
    """Keep other processes from importing the same folder into the same collection meanwhile.

    Raises:
        Conflict: one does.
    """
    # of a session, so that it ends with a process that is killed
    key = sa.func.hashtextextended(f"import {collection_id} {folder}".encode(errors="replace").decode(), 0)
    engine: sa.Engine = sessions.kw["bind"]
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.detach()
        if not connection.scalar(sa.select(sa.func.pg_try_advisory_lock(key))):
            raise Conflict(f"Another command is importing {folder} into this collection.")
        try:
            yield
        finally:
            # the server may take a while to end a session whose connection was closed
            with suppress(sa.exc.DBAPIError):
                connection.execute(sa.select(sa.func.pg_advisory_unlock(key)))


def scan(
    sessions: Sessions,
    collection_id: UUID,
    folder: Importable,
    *,
    rejected: bool = False,
    check: Callable[[], None] = lambda: None,
) -> Scan:
    """List a folder and note what is new or changed in it.

    Args:
        rejected: whether files that a job rejected count as new.
        check: called between some files and the next ones; what it raises ends the run.

    Raises:
        NotFound: the collection was deleted.
        Unreadable: the folder can't be read.
        InvalidInput: it is empty although files were imported from it, as a drive is that is not mounted.
    """
    folder_id, run = run_transaction(sessions, partial(_begin, collection_id=collection_id, folder=folder))
    again = [FileStatus.UNPROCESSED, *([FileStatus.REJECTED] if rejected else [])]
    run_transaction(sessions, partial(_take_again, folder_id=folder_id, statuses=again))
    clutter, unread, files = ClutterCount(), list[bytes](), 0
    listing = folder.files(clutter)
    while batch := list(islice(listing, _BATCH)):
        check()
        compare = partial(_compare, folder_id=folder_id, folder=folder, run=run, found=batch)
        run_transaction(sessions, compare)
        unread += [one.path for one in batch if one.is_folder]
        files += sum(one.error is None and one.remark is None for one in batch)
    with transaction(sessions) as session:
        _spare(session, folder_id, run, unread)
        if not files and not unread and session.scalar(_imported(folder_id).limit(1)) is not None:
            raise InvalidInput(
                f"{folder} has no files, although some were imported from it. Nothing was done: is it the right "
                "place, and is its drive mounted?"
            )
        # what never was imported
        never = (ImportedFile.file_id.is_(None), ImportedFile.earlier == [])
        session.execute(sa.delete(ImportedFile).where(*is_gone(folder_id, run), *never))
    _confirm(sessions, folder_id, run, folder, check)
    with sessions() as session:
        return _counted(session, folder_id, run, files, clutter.outcomes())


def _begin(session: Session, collection_id: UUID, folder: Importable) -> tuple[UUID, int]:
    lock_collection(session, collection_id)
    row = insert(ImportedFolder).values(id=new_id(), collection_id=collection_id, path=folder.address, run=1)
    counted = row.on_conflict_do_update(
        index_elements=[ImportedFolder.collection_id, ImportedFolder.path], set_={"run": ImportedFolder.run + 1}
    )
    folder_id, run = session.execute(counted.returning(ImportedFolder.id, ImportedFolder.run)).one()
    return folder_id, run


def _imported(folder_id: UUID) -> sa.Select[bytes]:
    of_folder = sa.select(ImportedFile.path).where(ImportedFile.folder_id == folder_id)
    return of_folder.where(ImportedFile.file_id.is_not(None))


def _take_again(session: Session, folder_id: UUID, statuses: Sequence[FileStatus]) -> None:
    """Make files pending that a job did not process because it was cancelled, or that it rejected."""
    left = sa.select(UploadFile.id).where(UploadFile.id == ImportedFile.file_id, UploadFile.status.in_(statuses))
    session.execute(
        sa.update(ImportedFile)
        .where(ImportedFile.folder_id == folder_id, left.exists())
        .values(pending=True, sha256=None)
        .execution_options(synchronize_session=False)
    )


def _compare(session: Session, folder_id: UUID, folder: Importable, run: int, found: Sequence[Listed]) -> None:
    paths = [one.path for one in found]
    query = sa.select(ImportedFile).where(ImportedFile.folder_id == folder_id, one_of(ImportedFile.path, paths))
    known = {row.path: row for row in session.scalars(query)}
    same = []
    for listed in found:
        row = known.get(listed.path)
        if row is not None and _is_same(row, listed, folder):
            same.append(listed.path)
            continue
        values: dict[str, Any] = {
            "size_bytes": listed.size,
            "changed_ns": listed.changed_ns,
            "etag": listed.etag,
            "error": listed.error,
            "remark": listed.remark,
            "pending": True,
            "run": run,
        }
        if row is None:
            session.add(ImportedFile(folder_id=folder_id, path=listed.path, name=listed.name, **values))
            continue
        if listed.size != row.size_bytes and listed.error is None and listed.remark is None:
            # another content, which need not be read to be told
            values["sha256"] = None
        for name, value in values.items():
            setattr(row, name, value)
    seen = sa.update(ImportedFile).where(ImportedFile.folder_id == folder_id, one_of(ImportedFile.path, same))
    session.execute(seen.values(run=run).execution_options(synchronize_session=False))


def _is_same(row: ImportedFile, listed: Listed, folder: Importable) -> bool:
    """Return whether nothing is new of a file; of one that could not be read that it still can't be."""
    if (row.size_bytes, row.changed_ns, row.etag) != (listed.size, listed.changed_ns, listed.etag):
        return False
    if row.error is not None and listed.error is None and listed.remark is None:
        return row.error == folder.problem(listed.path)
    return (row.error, row.remark) == (listed.error, listed.remark)


def _spare(session: Session, folder_id: UUID, run: int, unread: Sequence[bytes]) -> None:
    """Do not count files as gone that lie in folders that can't be read."""
    for path in unread:
        # the character after the slash ends what begins with this path
        below = sa.and_(ImportedFile.path >= path, ImportedFile.path < path[:-1] + b"0")
        spared = sa.update(ImportedFile).where(ImportedFile.folder_id == folder_id, below).values(run=run)
        session.execute(spared.execution_options(synchronize_session=False))


def pending_files(
    sessions: Sessions, folder_id: UUID, run: int, *conditions: sa.ColumnElement[bool], limit: int = _BATCH
) -> Iterator[Sequence[ImportedFile]]:
    """Yield the pending files that a run found and that meet the conditions, so many at a time.

    What is not pending any more, since something was done with it meanwhile, is left out.
    """
    here = (ImportedFile.folder_id == folder_id, ImportedFile.run == run, ImportedFile.pending, *conditions)
    after = b""
    while True:
        query = sa.select(ImportedFile).where(*here, ImportedFile.path > after)
        with sessions() as session:
            rows = session.scalars(query.order_by(ImportedFile.path).limit(limit)).all()
        if not rows:
            return
        yield rows
        after = rows[-1].path


def _confirm(sessions: Sessions, folder_id: UUID, run: int, folder: Importable, check: Callable[[], None]) -> None:
    """Note new sizes and times of files whose content is that of the last time; a job would find nothing new."""
    for rows in pending_files(sessions, folder_id, run, IS_READABLE, ImportedFile.sha256.is_not(None)):
        for row in rows:
            check()
            if values := _confirmed(row, folder):
                with transaction(sessions) as session:
                    session.execute(sa.update(ImportedFile).where(*key_of(row)).values(**values))


def _confirmed(row: ImportedFile, folder: Importable) -> dict[str, Any]:
    try:
        with folder.open(row.path) as opened:
            sha256 = streams.digest(cast("BinaryIO", opened), opened.size)
            opened.check()
    except Unreadable as error:
        return {"error": error.message}
    return {**columns(opened), "pending": False} if sha256 == row.sha256 else {}


def columns(opened: OpenedWhole) -> dict[str, Any]:
    """Return the columns of a file of which the open one was taken."""
    return {"size_bytes": opened.size, "changed_ns": opened.facts.changed_ns, "etag": opened.etag}


def key_of(row: ImportedFile) -> tuple[sa.ColumnElement[bool], ...]:
    """Return the conditions for one file."""
    return ImportedFile.folder_id == row.folder_id, ImportedFile.path == row.path


def _counted(session: Session, folder_id: UUID, run: int, files: int, clutter: list[FileOutcome]) -> Scan:
    here = (ImportedFile.folder_id == folder_id, ImportedFile.run == run, ImportedFile.pending)
    was_taken = ImportedFile.file_id.is_not(None)
    counts = sa.select(
        sa.func.count().filter(IS_READABLE, ~was_taken),
        sa.func.count().filter(IS_READABLE, was_taken),
        sa.func.coalesce(sa.func.sum(ImportedFile.size_bytes).filter(IS_READABLE), 0),
        sa.func.count().filter(ImportedFile.error.is_not(None)),
        sa.func.count().filter(ImportedFile.remark.is_not(None)),
    )
    new, changed, size, rejected, left_out = session.execute(counts.where(*here)).one()
    gone = session.scalars(sa.select(sa.func.count()).where(*is_gone(folder_id, run), was_taken)).one()
    return Scan(folder_id, run, files, new, changed, int(size), rejected, left_out, gone, clutter)


def is_gone(folder_id: UUID, run: int) -> tuple[sa.ColumnElement[bool], ...]:
    """Return the conditions for files of a folder that a run did not find any more."""
    return ImportedFile.folder_id == folder_id, ImportedFile.run < run
