"""``retllm dispatch``."""

from __future__ import annotations

import signal
from datetime import timedelta
from functools import partial
from types import FrameType

import click

from retllm import logs
from retllm.private import keep_private
from retllm.settings import Settings


@click.command()
def dispatch() -> None:
    """Run a dispatcher: it notifies workers of unclaimed units and takes back units with expired leases.

    Run one or several. A dispatcher also deletes for good what was in the trash long enough, removes what is in deleted
    collections, closes abandoned uploads, and deletes what they left in the storage.
    """
    from retllm.db.session import sessions_of
    from retllm.indexing.vector_indexes import drop_unused
    from retllm.job_kinds import register_handlers
    from retllm.media.storage import get_storage
    from retllm.media.sweeper import AGE, Sweeper
    from retllm.media.trash import remove_due
    from retllm.operations.log_sender import send_lines
    from retllm.operations.maintenance import maintenance_tasks
    from retllm.queue.dispatcher import Dispatcher
    from retllm.queue.notifications import Notifier
    from retllm.queue.routing import routing_of
    from retllm.queue.trashed import cancel_jobs
    from retllm.uploads.kept import drop_old
    from retllm.uploads.large_files import expire
    from retllm.uploads.orphans import delete_orphans
    from retllm.uploads.removal import EVERY_SECONDS, Postponed, remove_deleted

    register_handlers()
    settings = Settings()
    keep_private(settings)
    logs.configure(settings.log_level, settings.log_format)
    send_lines(settings.redis_url, "dispatch")
    sessions = sessions_of(settings, idle_seconds=settings.lease_seconds)
    notifier = Notifier(settings.redis_url, routing_of(settings))
    dispatcher = Dispatcher(sessions, notifier, settings, maintenance_tasks(sessions, notifier, settings))
    storage = get_storage(settings)
    sweeper = Sweeper(
        [
            partial(storage.sweep, AGE),
            partial(drop_old, sessions, storage, timedelta(days=settings.upload_keep_days)),
            partial(expire, sessions, storage),
            partial(delete_orphans, sessions, storage),
            partial(drop_unused, sessions),
        ]
    )

    deletions = [
        partial(cancel_jobs, sessions),
        partial(remove_due, sessions, storage),
        partial(remove_deleted, sessions, storage, Postponed()),
    ]
    remover = Sweeper(deletions, every=EVERY_SECONDS)

    def stop(_: int, __: FrameType | None) -> None:
        dispatcher.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    sweeper.start()
    remover.start()
    dispatcher.run()
    remover.stop()
    sweeper.stop()
