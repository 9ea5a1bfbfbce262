"""The last unit of an upload's files: texts become items, and the rows of sheets become captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from retllm.db.enums import FileStatus, ItemKind
from retllm.db.jobs import Job
from retllm.db.many import insert_many, one_of, update_many
from retllm.db.state_words import PROBLEMS
from retllm.db.tables import Item, new_id
from retllm.db.uploads import UploadFile, items_named
from retllm.errors import PictureNotSent
from retllm.media.captioning import Applied, Captioner, Document, EarlierRows, Given, Located, NamesSeen, Writing
from retllm.media.ingest import Ingest, delete_files
from retllm.media.names import codes, one_line
from retllm.media.outcomes import FileOutcome
from retllm.media.records import Came
from retllm.media.sheets.absent import Absent
from retllm.media.sheets.batches import batches
from retllm.media.sheets.references import names_a_picture
from retllm.media.sniffing import PICTURED, FileKind
from retllm.queue.claim import complete
from retllm.queue.routing import Notification
from retllm.queue.worker import LeasedUnit, WorkerContext
from retllm.uploads import caption_order
from retllm.uploads.archive_files import ArchiveFiles
from retllm.uploads.awaited import awaited_files
from retllm.uploads.expected import came_later
from retllm.uploads.kept import release

# rows of sheets inserted in one statement
_INSERTED = 5000
# made once: an alias copies all columns
_PARENT, _MISSING = aliased(UploadFile), aliased(UploadFile)


def apply_captions(
    context: WorkerContext, held: LeasedUnit, ingest: Ingest, job: Job, files: Sequence[UploadFile]
) -> list[Notification]:
    """Add the texts and apply sheets and sidecars of an upload; every row of a sheet gets an outcome.

    All files are read first, without a lock. Captions, texts and outcomes are then written in the one transaction that
    ends the unit, so that an attempt that is lost leaves nothing, and the next one finds what this one found.

    Raises:
        StaleClaim, JobCancelled: while a file is read, or at the end.
    """
    with context.sessions() as session:
        packs = _archives(session, job.id)
        seen = _names_seen(session, job.id, packs)
        missing = _missing_files(session, job)
        awaited = awaited_files(session, job)
        earlier = _earlier_rows(session, files)
        given = _given(session, job.id)
    for name in missing:
        seen.add_unsent(name)
    for name in awaited.names:
        seen.add_awaited(name)
    seen.awaited_archives += awaited.archives
    writings: list[Writing] = []
    with ExitStack() as stack:
        opener = ArchiveFiles(context, stack, held.lease.check)
        sha256s = caption_order.hashes(files, opener, context.settings)
        with context.sessions() as session:
            came = caption_order.came(session, job, files, sha256s)
        documents = {_document(file, packs, opener, *came[file.id], earlier.get(file.id)): file for file in files}
        absent = Absent(missing, awaited.names, awaited.archives)
        captioner = Captioner(ingest, seen, given, absent, texts=job.params["texts"], check=held.lease.check)
        for writing in captioner.read(list(documents)):
            held.lease.check()
            writings.append(writing)

    released: list[str] = []
    # so that a later upload knows that it came before
    new = [{"id": file.id, "sha256": sha256s[file.id]} for file in files if not file.sha256 and file.id in sha256s]

    def write(session: Session, _job: Job) -> list[Notification]:
        for some in batches(new, _INSERTED):
            session.execute(update_many(UploadFile, some).execution_options(synchronize_session=False))
        told_again = sa.or_(UploadFile.status.in_(PROBLEMS), _is_empty())
        session.execute(sa.delete(UploadFile).where(*_rows_of(files), told_again))
        for writing in writings:
            _write_outcomes(session, [(documents[applied.document], applied) for applied in writing(session)])
        released[:] = release(session, [file.id for file in files])
        return []

    notified = complete(context.sessions, held.claim, write)
    delete_files(context.storage, released)
    return notified


def _write_outcomes(session: Session, written: Sequence[tuple[UploadFile, Applied]]) -> None:
    sheets = [(file, applied) for file, applied in written if applied.is_sheet]
    rows = (
        {"job_id": file.job_id, "parent_id": file.id, "id": new_id(), "name": outcome.name, **columns_of(outcome)}
        for file, applied in sheets
        for outcome in applied.outcomes
    )
    for some in batches(rows, _INSERTED):
        session.execute(insert_many(UploadFile, some))
    read = [{"id": file.id, "status": FileStatus.READ, "remark": _storable(applied.remark)} for file, applied in sheets]
    if read:
        session.execute(update_many(UploadFile, read).execution_options(synchronize_session=False))
    for file, applied in written:
        if not applied.is_sheet:
            columns = columns_of(applied.outcomes[0])
            session.execute(sa.update(UploadFile).where(UploadFile.id == file.id).values(**columns))


def _document(
    file: UploadFile,
    packs: Mapping[UUID | None, str],
    opener: ArchiveFiles,
    came: Came,
    again: Mapping[UUID, Came],
    earlier: EarlierRows | None,
) -> Document:
    located = Located(file.name, file.parent_id, packs.get(file.parent_id, ""), _coded(file.name, file.raw_end))
    return Document(located, FileKind(file.content or ""), partial(opener.open, file), came, earlier, again)


def _coded(name: str, raw_end: str | None) -> tuple[str, ...]:
    return tuple(codes(name, raw_end).values())


def _rows_of(sheets: Sequence[UploadFile]) -> tuple[sa.ColumnElement[bool], ...]:
    """Return conditions for the rows of sheets."""
    return one_of(UploadFile.parent_id, [sheet.id for sheet in sheets]), UploadFile.entry.is_(None)


def _is_empty() -> sa.ColumnElement[bool]:
    """Return the condition that a row of a sheet has no caption; the next reading tells it again."""
    return sa.and_(UploadFile.status == FileStatus.IGNORED, UploadFile.item_id.is_(None))


def _earlier_rows(session: Session, sheets: Sequence[UploadFile]) -> dict[UUID, EarlierRows]:
    """Return what became of the rows of sheets that are read again."""
    found: dict[UUID, EarlierRows] = {}
    names = {sheet.id: sheet.name for sheet in sheets}
    query = sa.select(UploadFile.parent_id, UploadFile.name, UploadFile.status).where(*_rows_of(sheets), ~_is_empty())
    for sheet_id, name, status in session.execute(query):
        assert sheet_id is not None
        rows = found.setdefault(sheet_id, EarlierRows(names[sheet_id]))
        (rows.refused if status in PROBLEMS else rows.done).add(name)
    return found


def _given(session: Session, job_id: UUID) -> dict[UUID, Given]:
    """Return the captions that the files of an upload gave when they were read before: rows of sheets, and sidecars."""
    files = (
        sa.select(UploadFile.id, UploadFile.parent_id, UploadFile.name, items_named().label("item_id"))
        .where(
            UploadFile.job_id == job_id,
            UploadFile.status.in_([FileStatus.UPDATED, FileStatus.DUPLICATE]),
            UploadFile.kind == ItemKind.BOTH,
            # neither a picture nor a part of one
            sa.or_(UploadFile.content.is_(None), UploadFile.content.not_in(PICTURED)),
        )
        .subquery()
    )
    query = (
        sa.select(Item.id, files.c.name, Item.text)
        .join(files, files.c.item_id == Item.id)
        # a sheet goes before a sidecar, and of two sheets the first one counts
        .order_by(files.c.parent_id.is_(None), files.c.id)
    )
    given: dict[UUID, Given] = {}
    for item_id, name, text in session.execute(query):
        given.setdefault(item_id, Given(name, text or ""))
    return given


def _archives(session: Session, job_id: UUID) -> Mapping[UUID | None, str]:
    """Return the names of an upload's archives by their keys."""
    query = sa.select(UploadFile.id, UploadFile.name).where(
        UploadFile.job_id == job_id, UploadFile.content == FileKind.ARCHIVE
    )
    return {row.id: row.name for row in session.execute(query)}


def _names_seen(session: Session, job_id: UUID, packs: Mapping[UUID | None, str]) -> NamesSeen:
    """Return the pictures of an upload by where they lie, and its files of several ones; those rejected too."""
    seen = NamesSeen()
    is_part = _PARENT.content.in_(PICTURED)
    # a part lies where its file does
    archive = sa.case((is_part, _PARENT.parent_id), else_=UploadFile.parent_id)
    is_file = sa.or_(UploadFile.parent_id.is_(None), UploadFile.entry.is_not(None))
    pictures = (
        sa.select(
            *(UploadFile.name, UploadFile.raw_end, archive, UploadFile.item_id),
            *(sa.case((is_part, _PARENT.id)), _PARENT.name, _PARENT.raw_end),
        )
        .outerjoin(_PARENT, _PARENT.id == UploadFile.parent_id)
        .where(
            UploadFile.job_id == job_id,
            sa.or_(
                sa.and_(
                    UploadFile.content == FileKind.PICTURE,
                    UploadFile.status != FileStatus.READ,  # a TIFF whose pages are the pictures
                ),
                sa.and_(is_file, UploadFile.status == FileStatus.REJECTED),
            ),
        )
        .order_by(UploadFile.id)
    )
    wholes: dict[UUID, tuple[Located, list[UUID]]] = {}
    for name, end, archive_id, item_id, whole_id, whole, whole_end in session.execute(pictures):
        outer = packs.get(archive_id, "")
        if item_id is not None or names_a_picture(name):
            seen.add(Located(name, archive_id, outer, _coded(name, end)), item_id)
        if whole_id is not None and item_id is not None:
            located = Located(whole, archive_id, outer, _coded(whole, whole_end))
            wholes.setdefault(whole_id, (located, []))[1].append(item_id)
    for located, parts in wholes.values():
        seen.add(located, parts[0], tuple(parts))
    return seen


def _missing_files(session: Session, job: Job) -> Sequence[str]:
    """Return the names of files that were to come with an upload and did not, or not whole, nor with a later one."""
    file = _MISSING
    not_sent = (file.job_id == job.id, file.status == FileStatus.NOT_SENT, file.parent_id.is_(None))
    # a sidecar whose picture did not come is here itself
    never_came = file.error_code != PictureNotSent.code
    # NOT IN would compare each name with all that came later, if the planner expects many
    later = came_later(job).subquery()
    query = sa.select(file.name).where(*not_sent, never_came, ~sa.exists().where(later.c.name == file.name))
    return session.scalars(query.order_by(file.id)).all()


def columns_of(outcome: FileOutcome) -> dict[str, Any]:
    """Return the columns of a row in ``upload_files`` with this outcome."""
    error = outcome.error
    return {
        "status": FileStatus(outcome.status),
        "item_id": outcome.item_id,
        "further_item_ids": list(outcome.further_item_ids) or None,
        "kind": ItemKind(outcome.kind) if outcome.kind is not None else None,
        "error_code": error.code if error is not None else None,
        "error": _storable(error.message) if error is not None else None,
        "remark": _storable(outcome.remark),
        "count": outcome.count,
    }


def _storable(text: str | None) -> str | None:
    """Return what an outcome says without characters that no text in the database has: it may quote a file."""
    return None if text is None else one_line(text)
