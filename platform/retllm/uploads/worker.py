"""Uploads on a worker: do one unit of files. Its items, outcomes and further units are written in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import BinaryIO
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import FileStatus
from retllm.db.jobs import Job
from retllm.db.many import one_of
from retllm.db.session import Sessions
from retllm.db.uploads import UploadFile
from retllm.errors import MediaRejected, OriginalLost, TooLarge
from retllm.media import archives, records, streams
from retllm.media.ingest import Ingest, delete_files
from retllm.media.parallel import InParallel, PixelBudget
from retllm.media.pictures import inspect_single
from retllm.media.sniffing import PICTURED, FileKind, limit_of, sniff
from retllm.queue.claim import complete
from retllm.queue.routing import Notification
from retllm.queue.worker import LastStep, LeasedUnit, WorkerContext
from retllm.uploads.archive_files import ArchiveFiles, unpack
from retllm.uploads.captions import apply_captions
from retllm.uploads.kept import release
from retllm.uploads.processed import Processed, write
from retllm.uploads.receive import rejection
from retllm.uploads.vectors import CAPTIONS, embed_early
from retllm.uploads.whole_files import split


def media_unit(context: WorkerContext, held: LeasedUnit) -> list[Notification] | LastStep:
    """Turn the files of a unit into items, unpack an archive, or apply captions; for items return the last step.

    Raises:
        StaleClaim, JobCancelled: between two files, or at the end; StaleClaim also by the last step.
        StorageFull, StackError, OSError: the storage or the decoders can't be used; no file is at fault.
    """
    ids = [UUID(file) for file in held.claim.payload["items"]]
    with context.sessions() as session:
        job = session.get_one(Job, held.claim.job_id)
        rows = session.scalars(sa.select(UploadFile).where(one_of(UploadFile.id, ids)).order_by(UploadFile.id)).all()
        files = [row for row in rows if row.status is FileStatus.WAITING]
    ingest = Ingest(context.sessions, context.storage, context.settings, job.one_collection)
    if str(held.claim.payload.get("pass", "")).startswith(CAPTIONS):
        return apply_captions(context, held, ingest, job, files)
    # one inside another is refused like any file
    whole = [file for file in files if file.content == FileKind.ARCHIVE and file.parent_id is None]
    if whole:
        return unpack(context, held, whole)
    return _add_pictures(context, held, ingest, files)


def _add_pictures(context: WorkerContext, held: LeasedUnit, ingest: Ingest, files: Sequence[UploadFile]) -> LastStep:
    with ExitStack() as stack:
        opened = ArchiveFiles(context, stack, held.lease.check)
        processed = _process_all(context, held, ingest, files, opened.open)
    return partial(_write_all, context, held, ingest, processed)


def _write_all(
    context: WorkerContext, held: LeasedUnit, ingest: Ingest, processed: Sequence[Processed]
) -> list[Notification]:
    released: list[str] = []

    def write_all(session: Session, job: Job) -> list[Notification]:
        write(session, ingest.collection_id, job.id, processed)
        released[:] = release(session, [done.id for done in processed])
        return embed_early(session, job, [done.id for done in processed], context.settings)

    notified = complete(context.sessions, held.claim, write_all)
    for done in processed:
        released += [*done.unused, *(key for part in done.parts for key in part.unused)]
    delete_files(context.storage, released)
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
        return _process(ingest, file, opener, known, held.lease.check)

    settings = context.settings
    results = InParallel(
        files,
        process,
        lambda _: 0,  # the decoders have limits of their own
        threads=settings.decoders_at_once + 1,
        budget=PixelBudget(settings.decoded_bytes),
        ahead=2 * settings.decoders_at_once,
    )
    processed = []
    # on an error, what runs ends before the archives are closed
    with closing(results):
        for result in results:
            if result.error is not None:
                raise result.error
            assert result.value is not None
            processed.append(result.value)
    return processed


def _known(sessions: Sessions, collection_id: UUID, sha256s: Sequence[str]) -> set[str]:
    with sessions() as session:
        return set(records.find_contents(session, collection_id, sha256s))


def _process(
    ingest: Ingest,
    file: UploadFile,
    opener: Callable[[UploadFile], BinaryIO],
    known: set[str],
    check: Callable[[], None],
) -> Processed:
    """Decode and store the pictures of one file that the collection does not have."""
    done = Processed(file.id)
    try:
        with opener(file) as stream:
            content = FileKind(file.content) if file.content else sniff(streams.head(stream), file.name)
            done.columns["content"] = content
            if content is FileKind.ARCHIVE:
                raise archives.inside_another(stream, ingest.settings)
            if content not in PICTURED:
                return done  # captions and texts wait for the pictures
            sha256 = file.sha256 or streams.digest(stream, *limit_of(content, ingest.settings))
            done.columns["sha256"] = sha256
            if file.sha256 is None:
                known = _known(ingest.sessions, ingest.collection_id, [sha256])
            if sha256 not in known:
                inspected = inspect_single(stream, ingest.settings) if content is FileKind.PICTURE else None
                if inspected is not None:
                    done.item = ingest.store_inspected(
                        file.id, file.name, stream, sha256, inspected, stored=file.file_key, repeatable=True
                    )
                    done.columns["remark"] = inspected.remark
                else:
                    columns = done.columns
                    done = split(ingest, file, stream, content, sha256, check)
                    done.columns = columns | done.columns
    except (MediaRejected, TooLarge, OriginalLost) as error:
        done.columns |= rejection(error)
    return done
