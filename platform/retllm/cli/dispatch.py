"""``retllm dispatch``."""

from __future__ import annotations

import signal
from types import FrameType

import click

from retllm import logs
from retllm.settings import Settings


@click.command()
def dispatch() -> None:
    """Run a dispatcher: it announces work that waits and rescues work whose worker is gone. Run one or several.

    It also removes files that killed uploads left half written in the storage.
    """
    from retllm.db.session import make_sessions
    from retllm.job_kinds import register_handlers
    from retllm.media.storage import get_storage
    from retllm.media.sweeper import Sweeper
    from retllm.operations.upkeep import upkeep
    from retllm.queue.dispatcher import Dispatcher
    from retllm.queue.notifications import Notifier

    register_handlers()
    settings = Settings()
    logs.configure(settings.log_level, settings.log_format)
    sessions = make_sessions(settings.database_url, idle_seconds=settings.lease_seconds)
    dispatcher = Dispatcher(sessions, Notifier(settings.redis_url), settings, upkeep(sessions, settings))
    sweeper = Sweeper(get_storage(settings))

    def stop(_: int, __: FrameType | None) -> None:
        dispatcher.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    sweeper.start()
    dispatcher.run()
    sweeper.stop()
