"""``retllm dispatch``."""

from __future__ import annotations

import signal
from types import FrameType

import click

from retllm import logs
from retllm.settings import Settings


@click.command()
def dispatch() -> None:
    """Run a dispatcher: it notifies workers of unclaimed units and takes back units with expired leases.

    Run one or several. A dispatcher also deletes incomplete files of interrupted uploads from the storage.
    """
    from retllm.db.session import make_sessions
    from retllm.job_kinds import register_handlers
    from retllm.media.storage import get_storage
    from retllm.media.sweeper import Sweeper
    from retllm.operations.maintenance import maintenance_tasks
    from retllm.queue.dispatcher import Dispatcher
    from retllm.queue.notifications import Notifier

    register_handlers()
    settings = Settings()
    logs.configure(settings.log_level, settings.log_format)
    sessions = make_sessions(settings.database_url, idle_seconds=settings.lease_seconds)
    dispatcher = Dispatcher(sessions, Notifier(settings.redis_url), settings, maintenance_tasks(sessions, settings))
    sweeper = Sweeper(get_storage(settings))

    def stop(_: int, __: FrameType | None) -> None:
        dispatcher.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    sweeper.start()
    dispatcher.run()
    sweeper.stop()
