"""Imports on a worker: list a place, give its files to the upload of the job, and close that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.orm import Session

from retllm.db.jobs import Job
from retllm.db.session import Sessions, make_sessions
from retllm.errors import Conflict, Forbidden, InvalidInput, JobCancelled, RetllmError
from retllm.imports.allowing import allowed
from retllm.imports.found import Importable
from retllm.imports.scanning import alone, scan
from retllm.imports.sending import Import
from retllm.queue.claim import complete
from retllm.queue.routing import Notification
from retllm.queue.worker import LeasedUnit, WorkerContext
from retllm.settings import Settings
from retllm.uploads.submit import IMPORT, end_upload


def import_unit(context: WorkerContext, held: LeasedUnit) -> list[Notification]:
    """Give what is new or changed in a place to the upload of the unit's job; an attempt goes on where one ended.

    Raises:
        StaleClaim, JobCancelled: between some files and the next ones, or at the end.
        RetllmError: the place may not be imported, can't be read, or is imported by another job. No error says where
            it lies, since all who see the collection see the errors of its jobs.
    """
    with _place(held.claim.payload[IMPORT]["address"], context.settings) as place:
        try:
            _give(context, held, place)
        except RetllmError as error:
            if str(place) not in error.message:
                raise
            told = error.message.replace(str(place), "what is imported")
            raise type(error)(told[:1].upper() + told[1:]) from error
    return complete(context.sessions, held.claim, _close)


def _place(address: str, settings: Settings) -> Importable:
    try:
        return allowed(address, settings.import_roots)
    except (Forbidden, InvalidInput) as error:
        told = (
            "What is imported is not there for this worker, or not in its RETLLM_IMPORT_ROOTS. Correct that and retry."
        )
        raise type(error)(told) from error


def _give(context: WorkerContext, held: LeasedUnit, place: Importable) -> None:
    wanted, job_id = held.claim.payload[IMPORT], held.claim.job_id
    with context.sessions() as session:
        collection_id = session.get_one(Job, job_id).one_collection
    with _locking(context) as sessions, alone(sessions, collection_id, place):
        again, check = wanted["retry_rejected"], held.lease.check
        found = scan(context.sessions, collection_id, place, rejected=again, check=check)
        sending = Import(context.sessions, context.storage, context.settings, place, found, wanted["reference"])
        try:
            sending.announce(job_id)
            sending.send(job_id, context.notifier.notify, lambda *_: check())
        except Conflict as error:
            if error.detail.get("cancelled"):
                raise JobCancelled from error
            raise


def _close(session: Session, job: Job) -> list[Notification]:
    end_upload(session, job)
    return []


@contextmanager
def _locking(context: WorkerContext) -> Iterator[Sessions]:
    """Yield sessions that keep a lock, which those of a pooler in transaction mode do not."""
    url = context.settings.direct_url
    sessions = make_sessions(url, pool_size=1) if url else context.sessions
    try:
        yield sessions
    finally:
        if url:
            sessions.kw["bind"].dispose()
