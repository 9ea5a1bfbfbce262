"""Hints to workers that there is work. PostgreSQL holds it, so lost and repeated hints are harmless (design: jobs)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import redis
import structlog
from celery import Celery
from kombu.exceptions import OperationalError

from retllm.db.enums import Stage
from retllm.errors import StackError
from retllm.queue import transport
from retllm.queue.routing import ONE_SCORER, Notification, Routing

log = structlog.get_logger(__name__)

TASK_OF = {
    Stage.MEDIA: "retllm.media_unit",
    Stage.EMBED: "retllm.embed_unit",
    Stage.COARSE: "retllm.coarse_unit",
    Stage.FINE: "retllm.fine_unit",
}
# maximum number of hints sent by the request that creates the units; the dispatcher sends the others
FIRST_NOTIFIED = 64

_SOCKET = {
    "socket_timeout": 10,
    "socket_connect_timeout": 3,
    "socket_keepalive": True,
    "retry_on_timeout": True,
    # no timeout of a socket applies while a worker waits for a hint; a lost connection is noticed within 1 + 2 x 5 s
    "health_check_interval": 5,
}


def celery_app(redis_url: str | None) -> Celery:
    """Return the Celery application: JSON only, no result backend, late acknowledgement.

    Raises:
        StackError: no Redis is configured.
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
        # a pool of one thread makes no progress during a soft shutdown (retllm_workers.stopping)
        worker_soft_shutdown_timeout=0,
        # not used, and disabled so that nobody else can use it
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
    """Return the number of hints in each queue; None if Redis is unreachable or not configured."""
    if not redis_url:
        return None
    client = redis.Redis.from_url(redis_url, socket_timeout=1, socket_connect_timeout=1)
    try:
        with client, client.pipeline(transaction=False) as pipeline:
            for queue in queues:
                pipeline.llen(queue)
            return dict(zip(queues, pipeline.execute(), strict=True))
    except (redis.RedisError, OSError) as error:
        log.warning("hints.not_counted", reason=str(error))
        return None


class Notifier:
    """Sends hints. If Redis is unreachable it only logs that, since the dispatcher sends them again."""

    def __init__(self, redis_url: str | None, routing: Routing = ONE_SCORER) -> None:
        self._routing = routing
        self._app = celery_app(redis_url)
        # one try with short timeouts: a request must not wait for an unreachable Redis
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
        """Send a hint for each unit until one fails; return the number sent."""
        sent = 0
        for unit in units:
            queue = self._routing.queue_of(unit.stage, unit.scorer)
            try:
                self._send(TASK_OF[unit.stage], queue, [str(unit.unit_id)])
            except (OperationalError, redis.RedisError, OSError) as error:
                log.warning("announce.failed", unit_id=str(unit.unit_id), queue=queue, reason=str(error))
                break
            sent += 1
        return sent

    def _send(self, task: str, queue: str, args: Sequence[Any]) -> None:
        self._app.send_task(task, args=list(args), queue=queue, retry=False, ignore_result=True)

    def depth(self, queue: str) -> int:
        """Return the number of hints in ``queue``.

        Raises:
            redis.RedisError: Redis can't be reached.
        """
        return int(self._redis.llen(queue))  # type: ignore[arg-type]  # redis-py types sync and async alike
