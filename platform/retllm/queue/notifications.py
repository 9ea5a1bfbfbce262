"""Hints to workers. Postgres holds the work; a lost or repeated hint changes nothing (design: jobs)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import redis
import structlog
from celery import Celery
from kombu.exceptions import OperationalError

from retllm.db.enums import Stage
from retllm.errors import StackError
from retllm.queue import transport

log = structlog.get_logger(__name__)

# a search's first step has a queue of its own, so that it never waits behind a long index job
QUEUE_OF = {Stage.EMBED: "embed", Stage.COARSE: "query", Stage.FINE: "score"}
TASK_OF = {"embed": "retllm.embed_unit", "query": "retllm.coarse_unit", "score": "retllm.fine_unit"}
# units announced by the request that made them; the dispatcher trickles the others
FIRST_NOTIFIED = 64

Notification = tuple[UUID, Stage]

_SOCKET = {"socket_timeout": 10, "socket_connect_timeout": 3, "socket_keepalive": True, "retry_on_timeout": True}


def celery_app(redis_url: str | None) -> Celery:
    """The Celery application of senders and workers: JSON only, no result backend, late acknowledgement.

    Raises:
        StackError: no Redis is named.
    """
    if not redis_url:
        raise StackError("No Redis: set REDIS_URL to a Redis-compatible server, or run this under `retllm up`.")
    transport.install()
    app = Celery("retllm", broker=redis_url, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        result_backend=None,
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_cancel_long_running_tasks_on_connection_loss=True,
        # a pool of one thread can't finish anything while it waits (retllm_workers.stopping)
        worker_soft_shutdown_timeout=0,
        # nothing here commands workers through Redis, so nobody else gets to
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        broker_transport_options={"visibility_timeout": 3600, "queue_order_strategy": "priority", **_SOCKET},
        task_create_missing_queues=True,
        enable_utc=True,
    )
    return app


def hints(redis_url: str | None, queues: Sequence[str]) -> dict[str, int] | None:
    """How many hints wait in each queue; None where Redis is not there to be asked."""
    if not redis_url:
        return None
    client = redis.Redis.from_url(redis_url, socket_timeout=1, socket_connect_timeout=1)
    try:
        with client, client.pipeline(transaction=False) as asked:
            for queue in queues:
                asked.llen(queue)
            return dict(zip(queues, asked.execute(), strict=True))
    except (redis.RedisError, OSError) as error:
        log.warning("hints.not_counted", reason=str(error))
        return None


class Notifier:
    """Sends hints; a Redis that is away is logged and no error, since the dispatcher sends again."""

    def __init__(self, redis_url: str | None) -> None:
        self._app = celery_app(redis_url)
        # a request must not wait for a Redis that is away: one try, where a worker would try for long
        self._app.conf.broker_transport_options |= {
            "max_retries": 1,
            "interval_start": 0,
            "interval_step": 0,
            "socket_timeout": 2,
            "socket_connect_timeout": 2,
            "retry_on_timeout": False,
        }
        self._redis = redis.Redis.from_url(str(redis_url), socket_timeout=3, socket_connect_timeout=3)

    def notify(self, units: Iterable[Notification]) -> int:
        """Tell the workers of these units; returns how many hints were sent."""
        sent = 0
        for unit_id, stage in units:
            queue = QUEUE_OF[stage]
            try:
                self._send(queue, [str(unit_id)])
            except (OperationalError, redis.RedisError, OSError) as error:
                log.warning("announce.failed", unit_id=str(unit_id), queue=queue, reason=str(error))
                break
            sent += 1
        return sent

    def _send(self, queue: str, args: Sequence[Any]) -> None:
        self._app.send_task(TASK_OF[queue], args=list(args), queue=queue, retry=False, ignore_result=True)

    def depth(self, queue: str) -> int:
        """Hints that wait in ``queue``.

        Raises:
            redis.RedisError: Redis can't be reached.
        """
        return int(self._redis.llen(queue))  # type: ignore[arg-type]  # redis-py types sync and async alike
