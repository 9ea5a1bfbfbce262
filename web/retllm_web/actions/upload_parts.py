"""Uploads that resume: what need not be sent, files in parts, outcomes page by page, and another try."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import BinaryIO
from uuid import UUID

from sqlalchemy.orm import Session
from werkzeug.exceptions import HTTPException

from retllm.db.enums import FileStatus, JobKind
from retllm.db.jobs import Job
from retllm.db.session import Sessions, run_transaction, transaction
from retllm.errors import NotFound, RetllmError, TooLarge
from retllm.history.job_views import RetriedJobView, job_view, retried_view
from retllm.identity import access
from retllm.identity.actor import Actor
from retllm.identity.audit import Action
from retllm.media import streams
from retllm.media.fingerprints import Fingerprint
from retllm.media.outcomes import FileOutcome, IncomingFile
from retllm.queue import lifecycle
from retllm.queue.routing import Notification
from retllm.uploads import large_files, offers, retry, submit, unsent
from retllm.uploads.large_files import Announced, Arrived, Part
from retllm.uploads.offers import Offer
from retllm.uploads.receive import ReceivedFile
from retllm.uploads.views import FileView, UploadState, upload_files, upload_state
from retllm_web.actions import submissions, uploads
from retllm_web.actions.uploads import for_change
from retllm_web.http.services import services

_PAGE = 1000
_PIECE = 1 << 16


def _upload(session: Session, actor: Actor, upload_id: UUID) -> Job:
    job = access.job_for(session, actor, upload_id)
    if job.kind is not JobKind.UPLOAD:
        raise NotFound("This job is no upload, so it has no files.")
    return job


def require_change(actor: Actor, upload_id: UUID) -> None:
    """Check the right to send something to an upload before it is read; otherwise like :func:`for_change`."""
    with transaction(services().sessions) as session:
        for_change(session, actor, upload_id)


def state(actor: Actor, upload_id: UUID) -> tuple[Job, UploadState, int]:
    """Return an upload that ``actor`` may see, how far it is, and how many files arrived.

    Raises:
        NotFound: no such upload.
    """
    with transaction(services().sessions) as session:
        job = _upload(session, actor, upload_id)
        found = upload_state(session, upload_id)
        arrived = unsent.count_arrived(session, upload_id)
    if found is None:
        raise NotFound("There is no such job.")
    return job, found, arrived


def known(actor: Actor, upload_id: UUID, offered: Sequence[Offer]) -> list[bool]:
    """Return for each file whether its bytes need not be sent to an open upload.

    The upload has the file already, or its collection has the picture, or the bytes are here: those of a document or
    film of the collection, or kept from another upload. Then they are read once more.

    Raises:
        NotFound: no such upload.
        Forbidden: ``actor`` may not change its collection.
        Conflict: it takes no more files.
        StorageFull: the storage is full.
    """

    def take(session: Session) -> tuple[list[bool], dict[str, str], dict[int, list[str]]]:
        for_change(session, actor, upload_id)
        job = submit.lock_open(session, upload_id)
        here = offers.take_duplicates(session, job, offered)
        missing = [file for file, known in zip(offered, here, strict=True) if not known]
        kept = offers.kept_bytes(session, job.one_collection, [file.sha256 for file in missing if file.sha256])
        sizes = {file.size for file in missing if file.slices and not file.sha256}
        return here, kept, offers.wholes_of_size(session, job.one_collection, sizes)

    here, kept, wholes = run_transaction(services().sessions, take)
    for number, file in enumerate(offered):
        if here[number]:
            continue
        key = kept.get(file.sha256) if file.sha256 else _with_slices(wholes.get(file.size, ()), file.slices)
        if key is not None:
            here[number] = _take_kept(upload_id, file.name, key)
    return here


def _with_slices(keys: Sequence[str], slices: str | None) -> str | None:
    """Return which of these stored files has that hash of its slices."""
    return next((key for key in keys if slices is not None and _slices(key) == slices), None)


def _slices(key: str) -> str | None:
    with suppress(NotFound, OSError), services().storage.open(key) as stream:
        fingerprint = Fingerprint()
        while data := stream.read(streams.CHUNK):
            fingerprint.update(data)
        return fingerprint.hexdigest()
    return None


def _take_kept(upload_id: UUID, name: str, key: str) -> bool:
    """Receive a file from the bytes of another upload; return False if they are gone."""
    with suppress(NotFound, OSError), services().storage.open(key) as stream:
        uploads.receive_batch(upload_id, [IncomingFile(name, stream)], repeated=True)
        return True
    return False


def expect(actor: Actor, upload_id: UUID, first: int, names: Sequence[str]) -> None:
    """Note names of files that come to an open upload; those that never do are listed as not sent when it is closed.

    Args:
        first: the place of the first of these among all that the client announces.

    Raises:
        NotFound: no such upload.
        Forbidden: ``actor`` may not change its collection.
        Conflict: it takes no more files.
    """

    def note(session: Session) -> None:
        for_change(session, actor, upload_id)
        submit.lock_open(session, upload_id)
        unsent.expect(session, upload_id, first, names)

    run_transaction(services().sessions, note)


def note_unsent(actor: Actor, upload_id: UUID, outcomes: Sequence[FileOutcome]) -> None:
    """Note in an open or cancelled upload what became of files that are never sent, each once.

    Raises:
        NotFound: no such upload.
        Forbidden: ``actor`` may not change its collection.
        Conflict: it takes no more files.
    """

    def note(session: Session) -> None:
        for_change(session, actor, upload_id)
        submit.lock_open(session, upload_id, or_cancelled=True)
        unsent.note(session, upload_id, outcomes)

    run_transaction(services().sessions, note)


def files(
    actor: Actor, upload_id: UUID, statuses: Sequence[FileStatus], *, after: UUID | None = None, limit: int
) -> list[FileView]:
    """Return the files of an upload that ``actor`` may see, in the order in which they came.

    Raises:
        NotFound: no such upload.
    """
    with transaction(services().sessions) as session:
        _upload(session, actor, upload_id)
        return upload_files(session, upload_id, statuses=statuses, after=after, limit=limit)


def every_file(actor: Actor, upload_id: UUID, statuses: Sequence[FileStatus]) -> Iterator[FileView]:
    """Return an iterator over all of :func:`files`, read in pages.

    Raises:
        NotFound: no such upload.
    """
    first = files(actor, upload_id, statuses, limit=_PAGE)
    return _following(services().sessions, upload_id, statuses, first)


def _following(
    sessions: Sessions, upload_id: UUID, statuses: Sequence[FileStatus], page: list[FileView]
) -> Iterator[FileView]:
    while page:
        yield from page
        if len(page) < _PAGE:
            return
        with transaction(sessions) as session:
            page = upload_files(session, upload_id, statuses=statuses, after=page[-1].id, limit=_PAGE)


def retry_rejected(actor: Actor, upload_id: UUID) -> RetriedJobView:
    """Try the rejected files of an upload again whose bytes are kept, and all units that are dead or were cancelled.

    Returns the job with what is tried again.

    Raises:
        NotFound: no such upload.
        Forbidden: ``actor`` may not change its collection.
        Conflict: nothing can be tried again.
    """

    def again(session: Session) -> tuple[list[Notification], RetriedJobView]:
        for_change(session, actor, upload_id)
        job = lifecycle.lock_job(session, upload_id)
        if job is None:
            raise NotFound("There is no such job.")
        before = job_view(session, job)
        units = retry.retry_rejected(session, job)
        submissions.record_job(session, actor, Action.JOB_RETRIED, job)
        return units, retried_view(session, job, before)

    units, view = run_transaction(services().sessions, again)
    services().notifier.notify(units)
    return view


# files in parts


def begin_large(actor: Actor, upload_id: UUID, file: Announced) -> Arrived:
    """Announce a large file of an open upload; parts of it that came before are used.

    Raises:
        NotFound: no such upload.
        Forbidden: ``actor`` may not change its collection.
        Conflict: it takes no more files.
        TooLarge: no file may be so large.
    """
    found = services()

    def begin(session: Session) -> Arrived:
        for_change(session, actor, upload_id)
        job = submit.lock_open(session, upload_id)
        return large_files.begin(session, job, file, found.settings)

    arrived = run_transaction(found.sessions, begin)
    if arrived.offset == arrived.size and arrived.file_id is None:
        # an empty file; or an interrupted request stored the last part and could not put them together
        _finish(upload_id, arrived, None)
    return arrived


def large_file(actor: Actor, upload_id: UUID, large_file_id: UUID) -> Arrived:
    """Return a large file of an upload, with how much of it arrived.

    Raises:
        NotFound: no such upload, or no such file.
        Forbidden: ``actor`` may not change its collection.
    """
    with transaction(services().sessions) as session:
        for_change(session, actor, upload_id)
        return large_files.find(session, upload_id, large_file_id)


def append(
    actor: Actor, upload_id: UUID, large_file_id: UUID, offset: int, stream: BinaryIO, length: int | None
) -> int:
    """Store the next part of a large file, and make the file whole with the last one; return the new offset.

    If the connection breaks, what arrived of the part is kept. A file that its first part shows to be refused is over
    with it, and nothing else of it is sent.

    Args:
        length: number of bytes in ``stream`` if it is known.

    Raises:
        NotFound: no such upload, or no such file.
        Forbidden: ``actor`` may not change its collection.
        Conflict: the upload takes no more files, or another part is the next one.
        TooLarge: the part is longer than the rest of the file.
        StorageFull: the storage is full.
    """
    found = services()

    def check(session: Session) -> Arrived:
        for_change(session, actor, upload_id)
        submit.lock_open(session, upload_id)
        arrived = large_files.find(session, upload_id, large_file_id)
        large_files.check_next(arrived, offset)
        return arrived

    arrived = run_transaction(found.sessions, check)
    if length is not None and length > arrived.size - offset:
        raise TooLarge("The part is longer than the rest of the file.", limit=arrived.size - offset)
    if arrived.file_id is not None:
        return arrived.offset
    part = large_files.store_part(found.storage, arrived, _Arriving(stream))  # type: ignore[arg-type]  # is only read
    if part.size == 0 and arrived.size:
        found.storage.delete(part.key)
        return offset
    try:
        refused = large_files.refused(found.storage, arrived, part, found.settings)
        if refused is None and offset + part.size < arrived.size:
            run_transaction(found.sessions, lambda session: _record(session, upload_id, arrived, part))
            return offset + part.size
        _finish(upload_id, arrived, part, refused)
    except (RetllmError, OSError):
        found.storage.delete(part.key)
        raise
    return arrived.size


def _record(session: Session, upload_id: UUID, arrived: Arrived, part: Part) -> None:
    submit.lock_open(session, upload_id)
    large_files.record_part(session, upload_id, arrived, part)


def _finish(upload_id: UUID, arrived: Arrived, last: Part | None, received: ReceivedFile | None = None) -> None:
    """Put a file together and add it to its upload; until that is committed, its last part counts as not arrived.

    Args:
        received: the file, if it is refused without its other parts.
    """
    found = services()
    parts = [*arrived.parts, *([last] if last else [])]
    if received is None:
        received = large_files.put_together(found.storage, upload_id, arrived, parts, found.settings)

    def add(session: Session) -> list[Notification]:
        submit.lock_open(session, upload_id)
        large_files.record_whole(session, upload_id, arrived, arrived.offset, received.id)
        return submit.add_files(session, upload_id, [received])

    try:
        units = run_transaction(found.sessions, add)
    except (RetllmError, OSError):
        # not after an error of the database: its commit may have succeeded although the answer was lost
        if received.key is not None:
            found.storage.delete(received.key)
        raise
    found.storage.delete_folder(large_files.folder_of(arrived.id))
    found.notifier.notify(units)


class _Arriving:
    """The body of a request, which ends where the connection breaks."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def read(self, count: int) -> bytes:
        try:
            # in small pieces: of the one in which the connection breaks nothing is kept
            return self._stream.read(min(count, _PIECE))
        except (OSError, HTTPException):
            return b""


def abandon(actor: Actor, upload_id: UUID, large_file_id: UUID) -> None:
    """Forget a large file, and delete what arrived of it; a file that arrived whole stays in the upload.

    Raises:
        NotFound: no such upload, or no such file.
        Forbidden: ``actor`` may not change its collection.
    """
    found = services()

    def forget(session: Session) -> None:
        for_change(session, actor, upload_id)
        large_files.abandon(session, upload_id, large_file_id)

    run_transaction(found.sessions, forget)
    found.storage.delete_folder(large_files.folder_of(large_file_id))
