"""The worker of ``retllm bench jobs``: ``celery --app retllm.bench.job_worker worker``, without any model.

One process serves both sides of the comparison: empty units of index jobs, and an empty Celery task. At each measured
start it appends the name and the time to a list in Redis, so that both sides use the same clock in the same way.
"""

from __future__ import annotations

import os
import socket
import time
from functools import lru_cache
from typing import Any
from uuid import UUID

import redis
from celery.signals import setup_logging

from retllm import logs
from retllm.bench.jobs import BARE_TASK, STARTED
from retllm.db.enums import Stage
from retllm.db.session import make_sessions
from retllm.job_kinds import register_handlers
from retllm.media.storage import get_storage
from retllm.queue.claim import complete
from retllm.queue.notifications import TASK_OF, Notifier, celery_app
from retllm.queue.routing import Notification
from retllm.queue.worker import LeasedUnit, WorkerContext, run_unit
from retllm.settings import get_settings

app = celery_app(get_settings().redis_url)
app.set_default()


@setup_logging.connect  # type: ignore[untyped-decorator]  # celery has no types
def _setup_logging(**_: Any) -> None:
    logs.configure(get_settings().log_level, get_settings().log_format)


@lru_cache(maxsize=1)
def _context() -> WorkerContext:
    register_handlers()
    settings = get_settings()
    return WorkerContext(
        sessions=make_sessions(settings.database_url),
        storage=get_storage(settings),
        settings=settings,
        notifier=Notifier(settings.redis_url),
        worker=f"{socket.gethostname()}:{os.getpid()}",
    )


@lru_cache(maxsize=1)
def _redis() -> redis.Redis:
    return redis.Redis.from_url(str(get_settings().redis_url))


def _record_start(name: str) -> None:
    _redis().rpush(STARTED, f"{name} {time.time()}")


@app.task(name=TASK_OF[Stage.EMBED])  # type: ignore[untyped-decorator]  # celery has no types
def empty_unit(unit_id: str) -> None:
    """Claim the unit and complete it without results; record the start of the first unit of a job."""
    run_unit(_context(), UUID(unit_id), _do_nothing)


def _do_nothing(context: WorkerContext, held: LeasedUnit) -> list[Notification]:
    # the claim is already committed
    if held.claim.seq == 0:
        _record_start(str(held.claim.job_id))
    return complete(context.sessions, held.claim, lambda _session, _job: [])


@app.task(name=BARE_TASK)  # type: ignore[untyped-decorator]  # celery has no types
def bare_task(name: str) -> None:
    """Do nothing but record the start if ``name`` is not empty."""
    if name:
        _record_start(name)
