"""Uploads: begin one, receive files, close it, and wait for the outcomes; shared by the API and the pages."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TypeVar
from uuid import UUID

from sqlalchemy.orm import Session

from retllm.db.enums import JobKind
from retllm.db.jobs import Job
from retllm.db.session import run_transaction, transaction
from retllm.db.tables import Collection, new_id
from retllm.errors import NotFound, RetllmError
from retllm.history.job_views import JobView
from retllm.identity import access
from retllm.identity.access import Right
from retllm.identity.actor import Actor
from retllm.identity.audit import Action
from retllm.media.clutter import ClutterCount
from retllm.media.outcomes import IncomingFile
from retllm.queue.routing import Notification
from retllm.queue.submission import Submitted
from retllm.uploads import offers, submit, unsent
from retllm.uploads.offers import Offer
from retllm.uploads.receive import ReceivedFile, receive
from retllm.uploads.views import UploadState, is_processed, upload_state
from retllm_web.actions import submissions
from retllm_web.actions.auditing import record_collection
from retllm_web.http.long_answers import waiting
from retllm_web.http.services import services

MAX_WAIT = 60.0
"""Seconds that a request waits at most for the outcomes of its files."""
_POLL_SECONDS = (0.01, 0.5)
# a pause between two looks is this share of the time waited, so that an answer comes little later than its outcomes
_POLL_SHARE = 0.05
Value = TypeVar("Value")

BATCH = 32
"""Files of one transaction while a request is read."""


def begin(
    actor: Actor,
    collection_id: UUID,
    *,
    index: bool = True,
    texts: bool = False,
    expected: int = 0,
    idempotency_key: str | None = None,
) -> JobView:
    """Open an upload, which expects so many files if that is known.

    Raises:
        NotFound: no such collection.
        Forbidden: ``actor`` may not change it.
        Conflict: the idempotency key belongs to another request.
    """
    settings = services().settings
    return submissions.submit(
        actor,
        lambda session: submit.open_upload(
            session,
            actor,
            collection_id,
            settings,
            index=index,
            texts=texts,
            expected=expected,
            idempotency_key=idempotency_key,
        ),
    )


def begin_whole(
    actor: Actor, collection_id: UUID, files: Sequence[IncomingFile], *, index: bool, texts: bool
) -> JobView:
    """Open an upload, add its files and close it in one transaction: all of them arrive, or nothing happens.

    Raises:
        NotFound: no such collection.
        Forbidden: ``actor`` may not change it.
        StorageFull: the storage is full.
    """
    found, job_id, clutter = services(), new_id(), ClutterCount()
    wanted = [file for file in files if not clutter.take(file.name)]
    with _stored(job_id, wanted) as stored:
        received = stored + [ReceivedFile.left_out(outcome) for outcome in clutter.outcomes()]

        def open_add_close(session: Session) -> Submitted:
            opened = submit.open_upload(
                session, actor, collection_id, found.settings, index=index, texts=texts, job_id=job_id
            )
            units = submit.add_files(session, job_id, received)
            return replace(opened, units=units + _closed(session, actor, opened.job))

        return submissions.submit(actor, open_add_close)


def add(actor: Actor, job_id: UUID, files: Iterable[IncomingFile], *, repeated: bool = False) -> list[ReceivedFile]:
    """Store files of an open upload; workers begin with them at once. What arrived before an error stays.

    Args:
        repeated: whether the sender repeats requests: files that arrived before are then left out.

    Raises:
        NotFound: no such upload.
        Forbidden: ``actor`` may not change its collection.
        Conflict: it takes no more files.
        StorageFull: the storage is full.
    """
    found = services()
    with transaction(found.sessions) as session:
        for_change(session, actor, job_id)
        submit.lock_open(session, job_id)
    received: list[ReceivedFile] = []
    clutter = ClutterCount()
    for batch in batched((file for file in files if not clutter.take(file.name)), BATCH):
        received += receive_batch(job_id, batch, repeated=repeated)
    left_out = [ReceivedFile.left_out(outcome) for outcome in clutter.outcomes()]
    if left_out:
        run_transaction(found.sessions, partial(submit.add_files, job_id=job_id, files=left_out))
    return received + left_out


def receive_batch(job_id: UUID, files: Iterable[IncomingFile], *, repeated: bool) -> list[ReceivedFile]:
    """Store some files; all of them arrive, or none; otherwise like :func:`add`."""
    with _stored(job_id, files) as stored:

        def add_new(session: Session) -> tuple[list[ReceivedFile], list[Notification]]:
            submit.lock_open(session, job_id)
            new = offers.new_files(session, job_id, stored) if repeated else stored
            return new, submit.add_files(session, job_id, new)

        new, units = run_transaction(services().sessions, add_new)
    _discard(file for file in stored if file not in new)
    _notify(units)
    return new


@contextmanager
def _stored(job_id: UUID, files: Iterable[IncomingFile]) -> Iterator[list[ReceivedFile]]:
    """Store files for a transaction, and delete them again if it can't be committed."""
    found = services()
    stored: list[ReceivedFile] = []
    try:
        for file in files:
            stored.append(receive(found.storage, job_id, file, found.settings))
        yield stored
    except (RetllmError, OSError):
        # not after an error of the database: its commit may have succeeded although the answer was lost
        _discard(stored)
        raise


def _discard(files: Iterable[ReceivedFile]) -> None:
    for file in files:
        if file.key is not None:
            # what is left is deleted with other files that no row names
            with suppress(OSError):
                services().storage.delete(file.key)


def batched(values: Iterable[Value], size: int) -> Iterator[list[Value]]:
    """Yield the values in lists of at most ``size``."""
    remaining = iter(values)
    while batch := list(islice(remaining, size)):
        yield batch


def close(actor: Actor, job_id: UUID, offered: Sequence[Offer] = (), reason: str | None = None) -> list[bool]:
    """Take no more files; return for each of these files whether it arrived. Nothing arrives afterwards.

    Args:
        reason: why expected files that did not come are not sent, and what to do about it.

    Raises:
        NotFound: no such upload.
        Forbidden: ``actor`` may not change its collection.
    """

    def closed(session: Session) -> list[Notification]:
        return _closed(session, actor, for_change(session, actor, job_id), reason or unsent.LEFT)

    _notify(run_transaction(services().sessions, closed))
    with transaction(services().sessions) as session:
        return offers.arrived(session, job_id, offered) if offered else []


def _closed(session: Session, actor: Actor, job: Job, reason: str = unsent.LEFT) -> list[Notification]:
    state = upload_state(session, job.id)
    if state is None or state.closed_at is not None:
        return []
    units = submit.close_upload(session, job.id, reason)
    collection = session.get_one(Collection, job.one_collection)
    files = sum(state.counts.values())
    record_collection(session, Action.ITEMS_UPLOADED, collection, user=actor, files=files)
    return units


def _notify(units: Sequence[Notification]) -> None:
    services().notifier.notify(units)


def for_change(session: Session, actor: Actor, job_id: UUID) -> Job:
    """Return the job of an upload into a collection that ``actor`` may change.

    Raises:
        NotFound: no such upload.
        Forbidden: ``actor`` may not change its collection.
    """
    job = access.job_for(session, actor, job_id)
    access.collection_for(session, actor, job.one_collection, Right.CHANGE)
    if job.kind is not JobKind.UPLOAD:
        raise NotFound("There is no such upload.")
    return job


def wait(actor: Actor, job_id: UUID, seconds: float) -> UploadState:
    """Wait until every file of a closed upload has its outcome, for so many seconds at most; return its state.

    Few requests wait at the same time, and few of one account; the others get the present state.

    Raises:
        NotFound: the upload was deleted meanwhile.
    """
    if seconds > 0:
        with waiting(actor.id) as may_wait:
            if may_wait:
                _await_processed(job_id, min(seconds, MAX_WAIT))
    with transaction(services().sessions) as session:
        state = upload_state(session, job_id)
    if state is None:
        raise NotFound("There is no such upload.")
    return state


def _await_processed(job_id: UUID, seconds: float) -> None:
    began = time.monotonic()
    least, most = _POLL_SECONDS
    while (waited := time.monotonic() - began) < seconds:
        with transaction(services().sessions) as session:
            if is_processed(session, job_id) is not False:
                return
        time.sleep(min(max(least, _POLL_SHARE * waited), most, seconds - waited))
