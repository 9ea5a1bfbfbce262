"""Uploads of the pages: one upload for all that is chosen and dropped, which goes on after interruptions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import OVER_JOBS, FileStatus, JobKind, JobState
from retllm.db.session import run_transaction, transaction
from retllm.db.tables import Job
from retllm.errors import MediaRejected, NotFound, RetllmError
from retllm.identity.access import collection_for
from retllm.identity.actor import Actor
from retllm.media.clutter import left_out
from retllm.media.file_table import clutter_of
from retllm.media.names import clean_name
from retllm.media.outcomes import FileOutcome, IncomingFile, rejected
from retllm.queue.notifications import Notification
from retllm.uploads import offers, submit
from retllm.uploads.offers import Offer
from retllm.uploads.receive import ReceivedFile, receive
from retllm.uploads.views import FileView, UploadState, files_with_rejected_first, upload_state
from retllm_web.actions import uploads
from retllm_web.http.services import services

SHOWN_FILES = 20
"""Files of the last upload on the page of its collection."""
_UNREADABLE = "The browser cannot read this file. Check its permissions and whether it still exists, and try again."


@dataclass(frozen=True)
class Unsent:
    """Files that a browser leaves out: clutter by place and number of files, and what it cannot read."""

    clutter: Sequence[tuple[str, int]] = ()
    unreadable: Sequence[str] = ()

    def outcomes(self) -> list[FileOutcome]:
        """Return their outcomes; a name that is not clutter is left away."""
        ignored = [
            left_out(name, clutter.reason, count)
            for name, count in self.clutter
            if (clutter := clutter_of(name)) is not None
        ]
        return ignored + [rejected(clean_name(name), MediaRejected(_UNREADABLE)) for name in self.unreadable]


def offer(actor: Actor, upload_id: UUID, offered: Sequence[Offer], unsent: Unsent | None = None) -> list[bool]:
    """Return for each file whether its bytes need not be sent to an open upload; note which files are never sent.

    The upload has the file already, or its collection has the picture, or the bytes are kept from another upload.

    Raises:
        NotFound: no such upload.
        Forbidden: ``actor`` may not change its collection.
        Conflict: it takes no more files.
        StorageFull: the storage is full.
    """

    def take(session: Session) -> tuple[list[bool], dict[str, str]]:
        uploads.for_change(session, actor, upload_id)
        job = submit.lock_open(session, upload_id)
        known = offers.take_duplicates(session, job, offered)
        if unsent is not None:
            offers.note_unsent(session, job.id, unsent.outcomes())
        missing = [file.sha256 for file, here in zip(offered, known, strict=True) if file.sha256 and not here]
        return known, offers.kept_bytes(session, job.collection_id, missing)

    known, kept = run_transaction(services().sessions, take)
    for number, file in enumerate(offered):
        key = kept.get(file.sha256 or "")
        if not known[number] and key is not None:
            known[number] = _take_kept(upload_id, file.name, key)
    return known


def _take_kept(upload_id: UUID, name: str, key: str) -> bool:
    """Receive a file from the bytes of another upload; return False if they are gone."""
    with suppress(NotFound, OSError), services().storage.open(key) as stream:
        _receive(upload_id, [IncomingFile(name, stream)])
        return True
    return False


def add(actor: Actor, upload_id: UUID, files: Iterable[IncomingFile]) -> None:
    """Store files of an open upload, except those that arrived before; either all of them arrive, or none.

    Raises:
        NotFound: no such upload.
        Forbidden: ``actor`` may not change its collection.
        Conflict: it takes no more files.
        StorageFull: the storage is full.
    """
    with transaction(services().sessions) as session:
        uploads.for_change(session, actor, upload_id)
        submit.lock_open(session, upload_id)
    _receive(upload_id, files)


def _receive(upload_id: UUID, files: Iterable[IncomingFile]) -> None:
    found = services()
    received: list[ReceivedFile] = []

    def add_new(session: Session) -> tuple[list[ReceivedFile], list[Notification]]:
        submit.lock_open(session, upload_id)
        new = offers.new_files(session, upload_id, received)
        return new, submit.add_files(session, upload_id, new)

    new: list[ReceivedFile] = []
    try:
        for file in files:
            received.append(receive(found.storage, upload_id, file, found.settings))
        new, units = run_transaction(found.sessions, add_new)
    except (RetllmError, OSError):
        _discard(received)
        raise
    _discard([file for file in received if file not in new])
    found.notifier.notify(units)


def _discard(files: Iterable[ReceivedFile]) -> None:
    for file in files:
        if file.key is not None:
            # what is left is deleted with other files that no row names
            with suppress(OSError):
                services().storage.delete(file.key)


def close(actor: Actor, upload_id: UUID, offered: Sequence[Offer] = ()) -> list[bool]:
    """Take no more files; return for each of these files whether it arrived. Nothing arrives afterwards.

    Raises:
        NotFound: no such upload.
        Forbidden: ``actor`` may not change its collection.
    """
    uploads.close(actor, upload_id)
    with transaction(services().sessions) as session:
        return offers.arrived(session, upload_id, offered)


@dataclass(frozen=True)
class LastUpload:
    """The newest upload of an account to a collection: its state, and some files, the rejected ones first."""

    job_id: UUID
    job_state: JobState
    state: UploadState
    files: Sequence[FileView]

    @property
    def over(self) -> bool:
        """Whether every file has its outcome."""
        return self.state.processed or self.job_state in OVER_JOBS

    @property
    def total(self) -> int:
        """The number of files, entries and rows with an outcome; without sheets and archives."""
        without = (FileStatus.READ, FileStatus.WAITING)
        return sum(number for status, number in self.state.counts.items() if status not in without)


def last_upload(session: Session, actor: Actor, collection_id: UUID) -> LastUpload | None:
    """Return the newest upload of ``actor`` to a collection.

    Raises:
        NotFound: no such collection that ``actor`` may see.
    """
    collection_for(session, actor, collection_id)
    query = sa.select(Job).where(
        Job.collection_id == collection_id, Job.kind == JobKind.UPLOAD, Job.user_id == actor.id
    )
    job = session.scalar(query.order_by(Job.id.desc()).limit(1))
    state = upload_state(session, job.id) if job is not None else None
    if job is None or state is None:
        return None
    files = files_with_rejected_first(session, job.id, with_outcome=True, limit=SHOWN_FILES)
    return LastUpload(job.id, job.state, state, files)
