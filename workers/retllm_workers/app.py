"""The Celery application: ``celery -A retllm_workers.app worker -Q query,embed`` or ``-Q score``.

A worker is one process with one thread for the tasks: it holds one model, on one device. Start one process for
each GPU (``CUDA_VISIBLE_DEVICES``). What a task is given is a hint (design: jobs); the claim in Postgres decides.
"""

from __future__ import annotations

import sys
from typing import Any

import structlog
from celery.signals import celeryd_init, setup_logging, worker_ready, worker_shutdown

from retllm import logs
from retllm.errors import StackError
from retllm.jobs.announce import celery_app
from retllm.settings import get_settings

log = structlog.get_logger(__name__)

try:
    app = celery_app(get_settings().redis_url)
except StackError as error:
    sys.stderr.write(f"{error.message}\n")
    raise SystemExit(2) from error

app.set_default()
app.conf.imports = ("retllm_workers.embed", "retllm_workers.score", "retllm_workers.stopping")


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
    from retllm_workers import embed, presence, score

    queues = {queue.name for queue in sender.task_consumer.queues}
    log.info("worker.ready", queues=sorted(queues))
    presence.begin(queues)
    if queues & embed.QUEUES:
        embed.HELD.load_early()
    if queues & score.QUEUES:
        score.HELD.load_early()


@worker_shutdown.connect  # type: ignore[untyped-decorator]  # celery has no types
def _say_goodbye(**_: Any) -> None:
    from retllm_workers import presence

    presence.end()
