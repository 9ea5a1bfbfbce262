"""The Celery application: ``celery -A retllm_workers.app worker -Q query,embed``, ``-Q score`` or ``-Q score:NAME``.

A worker is one process that runs tasks on one thread, with its models on one device. Start one process for each GPU
(``CUDA_VISIBLE_DEVICES``). A task message is only a hint (design: jobs); the claim in PostgreSQL decides.
"""

from __future__ import annotations

import sys
from typing import Any

import structlog
from celery.signals import celeryd_init, setup_logging, worker_ready, worker_shutdown

from retllm import logs
from retllm.errors import InvalidInput
from retllm.operations.log_sender import send_lines
from retllm.priority import give_way
from retllm.private import keep_private
from retllm.queue.routing import is_of_scorer
from retllm.settings import get_settings
from retllm_workers import context, embed, media, presence, score, stopping
from retllm_workers.celery_app import app

log = structlog.get_logger(__name__)

# `stopping` is imported for its signal handlers, `media` for its task
__all__ = ["app", "media", "stopping"]


@celeryd_init.connect  # type: ignore[untyped-decorator]  # celery has no types
def _configure_process(instance: Any, **_: Any) -> None:
    """Use the configured log format from the first line on; suppress Celery's banner, which is not JSON."""
    give_way()
    keep_private(get_settings())
    instance.quiet = get_settings().log_format == "json"
    _setup_logging()


@celeryd_init.connect  # type: ignore[untyped-decorator]  # celery has no types
def _choose_scorer(options: dict[str, Any], **_: Any) -> None:
    """End the process if it is to serve several scorers, or one that is not configured."""
    queues = options.get("queues") or ()
    try:
        context.serve(queues.split(",") if isinstance(queues, str) else queues)
    except InvalidInput as error:
        sys.stderr.write(f"{error.message}\n")
        raise SystemExit(2) from error


@celeryd_init.connect  # type: ignore[untyped-decorator]  # celery has no types
def _send_lines(options: dict[str, Any], **_: Any) -> None:
    """Give the page of logs the lines of this process, which is named by its queues."""
    queues = options.get("queues") or "worker"
    send_lines(get_settings().redis_url, queues if isinstance(queues, str) else ",".join(queues))


@setup_logging.connect  # type: ignore[untyped-decorator]  # celery has no types
def _setup_logging(**_: Any) -> None:
    logs.configure(get_settings().log_level, get_settings().log_format)


@worker_ready.connect  # type: ignore[untyped-decorator]  # celery has no types
def _load_early(sender: Any, **_: Any) -> None:
    """Load the models of this worker's queues before the first task needs them."""
    queues = {queue.name for queue in sender.task_consumer.queues}
    log.info("worker.ready", queues=sorted(queues))
    presence.begin(queues)
    embed.serve(queues)
    if queues & embed.QUEUES:
        embed.HELD.load_early()
    if any(map(is_of_scorer, queues)):
        score.HELD.load_early()


@worker_shutdown.connect  # type: ignore[untyped-decorator]  # celery has no types
def _end_presence(**_: Any) -> None:
    presence.end()
