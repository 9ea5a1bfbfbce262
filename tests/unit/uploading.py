"""Uploads files as a job and processes them in this process."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from retllm.db.enums import Stage, UnitState
from retllm.db.jobs import Unit
from retllm.db.session import transaction
from retllm.db.tables import Collection, User
from retllm.identity.actor import Actor
from retllm.media.clutter import ClutterCount
from retllm.media.ingest import FileOutcome, IncomingFile, Ingest
from retllm.queue.worker import WorkerContext, run_unit
from retllm.uploads.receive import ReceivedFile, receive
from retllm.uploads.submit import add_files as add_received
from retllm.uploads.submit import close_upload, open_upload
from retllm.uploads.views import outcomes_of
from retllm.uploads.worker import media_unit


class NoNotifier:
    """A notifier that notifies nobody."""

    def notify(self, units) -> int:
        return len(list(units))


def add_files(ingest: Ingest, files: Iterable[IncomingFile], *, texts: bool = False) -> list[FileOutcome]:
    """Upload files into the collection of ``ingest``; return the outcomes.

    Those of sheets and archives are left out, except for remarks.
    """
    context = WorkerContext(ingest.sessions, ingest.storage, ingest.settings, NoNotifier(), "media")
    with transaction(ingest.sessions) as session:
        owner = session.get_one(User, session.get_one(Collection, ingest.collection_id).owner_id)
        actor = Actor.unlimited(owner)
        job = open_upload(session, actor, ingest.collection_id, ingest.settings, index=False, texts=texts).job
    clutter = ClutterCount()
    received = [receive(ingest.storage, job.id, file, ingest.settings) for file in files if not clutter.take(file.name)]
    received += [ReceivedFile.left_out(outcome) for outcome in clutter.outcomes()]
    with transaction(ingest.sessions) as session:
        add_received(session, job.id, received)
        close_upload(session, job.id)
    ready = sa.select(Unit.id).where(Unit.job_id == job.id, Unit.stage == Stage.MEDIA, Unit.state == UnitState.READY)
    while True:
        with ingest.sessions() as session:
            units = session.scalars(ready.order_by(Unit.seq)).all()
        if not units:
            break
        for unit in units:
            assert run_unit(context, unit, media_unit)
    with ingest.sessions() as session:
        return [told for told in outcomes_of(session, job.id) if told.status != "read" or told.remark]
