"""The Celery application: ``celery -A retllm_workers.app worker -Q query,embed`` or ``-Q score``.

A worker is one process with one thread for the tasks: it holds one model, on one device. Start one process for
each GPU (``CUDA_VISIBLE_DEVICES``). What a task is given is a hint (design: jobs); the claim in Postgres decides.
"""

from __future__ import annotations

from typing import Any

import structlog
from celery.signals import celeryd_init, setup_logging, worker_ready, worker_shutdown

from retllm import logs
from retllm.settings import get_settings
from retllm_workers import embed, presence, score, stopping
from retllm_workers.celery_app import app

log = structlog.get_logger(__name__)

# `stopping` is imported for what it registers
__all__ = ["app", "stopping"]


@celeryd_init.connect  # type: ignore[untyped-decorator]  # celery has no types
def _begin(instance: Any, **_: Any) -> None:
    """Log in the form that is wanted from the first line on; Celery's banner is no JSON."""
    instance.quiet = get_settings().log_format == "json"
    _setup_logging()


@setup_logging.connect  # type: ignore[untyped-decorator]  # celery has no types
def _setup_logging(**_: Any) -> None:
    logs.configure(get_settings().log_level, get_settings().log_format)


@worker_ready.connect  # type: ignore[untyped-decorator]  # celery has no types
def _load_early(sender: Any, **_: Any) -> None:
    """Load the model of this worker's queue before the first task needs it."""
    queues = {queue.name for queue in sender.task_consumer.queues}
    log.info("worker.ready", queues=sorted(queues))
    presence.begin(queues)
    if queues & embed.QUEUES:
        embed.HELD.load_early()
    if queues & score.QUEUES:
        score.HELD.load_early()


@worker_shutdown.connect  # type: ignore[untyped-decorator]  # celery has no types
def _say_goodbye(**_: Any) -> None:
    presence.end()
