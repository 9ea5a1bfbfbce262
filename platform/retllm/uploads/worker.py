"""Uploads on a worker: do one unit of files. Its items, outcomes and further units are written in one transaction."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, BinaryIO
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import FileStatus, ItemKind
from retllm.db.session import Sessions
from retllm.db.tables import Job
from retllm.db.uploads import UploadFile
from retllm.errors import DatabaseBusy, MediaRejected, TooLarge
from retllm.media import records, streams
from retllm.media.ingest import Ingest, keys_of
from retllm.media.parallel import in_parallel
from retllm.media.sniffing import FileKind, sniff
from retllm.queue.claim import complete
from retllm.queue.notifications import Notification
from retllm.queue.worker import LeasedUnit, WorkerContext
from retllm.uploads.archive_files import ArchiveFiles, unpack
from retllm.uploads.captions import apply_captions
from retllm.uploads.receive import rejection
from retllm.uploads.vectors import CAPTIONS, embed_early


@dataclass
class Processed:
    """What one file of a unit became: the columns of its row, and the values of a new item if it is a new picture."""

    file: UploadFile
    columns: dict[str, Any] = field(default_factory=dict)
    item: dict[str, Any] | None = None


def media_unit(context: WorkerContext, held: LeasedUnit) -> list[Notification]:
    """Turn the files of a unit into items, unpack an archive, or apply captions.

    Raises:
        StaleClaim, JobCancelled: between two files, or at the end.
        StorageFull, StackError, OSError: the storage or the decoders can't be used; no file is at fault.
    """
    ids = [UUID(file) for file in held.claim.payload["items"]]
    with context.sessions() as session:
        job = session.get_one(Job, held.claim.job_id)
        rows = session.scalars(sa.select(UploadFile).where(UploadFile.id.in_(ids)).order_by(UploadFile.id)).all()
        files = [row for row in rows if row.status is FileStatus.WAITING]
    ingest = Ingest(context.sessions, context.storage, context.settings, job.collection_id)
    if held.claim.payload.get("pass") == CAPTIONS:
        return apply_captions(context, held, ingest, job, files)
    archives = [file for file in files if file.content == FileKind.ARCHIVE]
    if archives:
        return unpack(context, held, archives)
    return _add_pictures(context, held, ingest, files)


def _add_pictures(
    context: WorkerContext, held: LeasedUnit, ingest: Ingest, files: Sequence[UploadFile]
) -> list[Notification]:
    with ExitStack() as stack:
        opened = ArchiveFiles(context, stack)
        processed = _process_all(context, held, ingest, files, opened.open)

    def write(session: Session, job: Job) -> list[Notification]:
        _write(session, ingest.collection_id, processed)
        return embed_early(session, job, [file.id for file in files], context.settings)

    notified = complete(context.sessions, held.claim, write)
    for done in processed:
        if done.item is not None and done.columns["status"] is not FileStatus.ADDED:
            # another upload of the same picture was faster
            ingest.discard(*keys_of(done.item))
        if done.columns.get("file_key", done.file.file_key) is None and done.file.file_key is not None:
            ingest.discard(done.file.file_key)
    return notified


def _process_all(
    context: WorkerContext,
    held: LeasedUnit,
    ingest: Ingest,
    files: Sequence[UploadFile],
    opener: Callable[[UploadFile], BinaryIO],
) -> list[Processed]:
    known = _known(context.sessions, ingest.collection_id, [file.sha256 for file in files if file.sha256])

    def process(file: UploadFile) -> Processed:
        held.lease.check()
        return _process(ingest, file, opener, known)

    settings = context.settings
    results = in_parallel(
        files,
        process,
        lambda _: 0,  # the decoders have limits of their own
        threads=settings.decoders_at_once + 1,
        max_bytes=settings.decoded_bytes,
        ahead=2 * settings.decoders_at_once,
    )
    processed = []
    for result in results:
        if result.error is not None:
            raise result.error
        assert result.value is not None
        processed.append(result.value)
    return processed


def _known(sessions: Sessions, collection_id: UUID, sha256s: Sequence[str]) -> set[str]:
    with sessions() as session:
        return set(records.find_contents(session, collection_id, sha256s))


def _process(ingest: Ingest, file: UploadFile, opener: Callable[[UploadFile], BinaryIO], known: set[str]) -> Processed:
    """Decode and store one picture that the collection does not have."""
    done = Processed(file)
    try:
        with opener(file) as stream:
            content = FileKind(file.content) if file.content else sniff(streams.head(stream), file.name)
            done.columns["content"] = content
            if content is FileKind.ARCHIVE:
                raise MediaRejected("An archive inside an archive is not opened: send it separately.")
            if content is not FileKind.PICTURE:
                return done  # captions and texts wait for the pictures
            sha256 = file.sha256 or streams.digest(stream, ingest.settings.max_file_bytes)
            done.columns["sha256"] = sha256
            if file.sha256 is None:
                known = _known(ingest.sessions, ingest.collection_id, [sha256])
            if sha256 not in known:
                done.item, done.columns["remark"] = ingest.store_picture(
                    file.id, file.name, stream, sha256, repeatable=True
                )
    except (MediaRejected, TooLarge) as error:
        done.columns |= rejection(error)
    else:
        done.columns["file_key"] = None
    return done


def _write(session: Session, collection_id: UUID, processed: Sequence[Processed]) -> None:
    """Insert the new items, and write what became of each file."""
    rows = [{**done.item, "collection_id": collection_id} for done in processed if done.item is not None]
    added = records.insert_items(session, rows) if rows else set()
    others = [
        done.columns["sha256"]
        for done in processed
        if done.columns.get("status") is None and done.columns.get("sha256") and done.file.id not in added
    ]
    existing = records.find_contents(session, collection_id, others)
    for done in processed:
        done.columns |= _outcome(done, added, existing)
    write_outcomes(session, {done.file.id: done.columns for done in processed})


def _outcome(done: Processed, added: set[uuid.UUID], existing: dict[str, records.Known]) -> dict[str, Any]:
    if done.columns.get("status") is FileStatus.REJECTED or done.columns.get("sha256") is None:
        return {}
    if done.file.id in added:
        return {"status": FileStatus.ADDED, "item_id": done.file.id, "kind": ItemKind.IMAGE}
    item = existing.get(done.columns["sha256"])
    if item is None:
        raise DatabaseBusy("The same picture was deleted during the upload.")
    return {"status": FileStatus.DUPLICATE, "item_id": item.id, "kind": item.kind}


def write_outcomes(session: Session, outcomes: dict[UUID, dict[str, Any]]) -> None:
    """Write columns of files, given by their keys."""
    for file_id, columns in outcomes.items():
        if columns:
            session.execute(sa.update(UploadFile).where(UploadFile.id == file_id).values(**columns))
