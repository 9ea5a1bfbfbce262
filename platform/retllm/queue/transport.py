"""Kombu's Redis transport, hardened against malformed messages and lost connections.

Kombu and Celery reject some malformed messages: pickle, YAML, unknown tasks. Any other, such as a body that does not
hold arguments, raises an error that ends the worker or makes it reconnect. The message is requeued first, so it would
hit one worker after the other, for ever. Hints may be lost (design: jobs), so this transport drops such a message.
"""

from __future__ import annotations

from typing import Any

import redis
import structlog
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as kombu_redis
from kombu.utils.json import loads

log = structlog.get_logger(__name__)

# errors of Redis or the machine; Kombu counts KeyError as a lost connection, but here a message causes it
_NOT_CAUSED_BY_MESSAGE = (
    MemoryError,
    redis.InvalidResponse,
    redis.ResponseError,
    *(error for error in kombu_redis.Transport.connection_errors if error is not KeyError),
)

_Held = set[tuple[Any, Any]]


def _log_dropped(error: Exception) -> None:
    log.error("message.refused", reason=f"{type(error).__name__}: {error}"[:200], exc_info=True)


class _Client(redis.Redis):
    """Drops unreadable entries of a queue; BRPOP has already removed them."""

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        answer = super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]  # redis-py either
        if command_name == "BRPOP" and answer:
            try:
                # what Kombu does next
                loads(answer[1])  # type: ignore[no-untyped-call]  # kombu has few types
            except Exception as error:
                _log_dropped(error)
                return None
        return answer


class _QoS(kombu_redis.QoS):
    """Counts a message as acknowledged even if Redis did not receive the acknowledgement; it may be delivered again.

    Otherwise a worker with prefetch 1 would consider the message unacknowledged, and wait for ever: it would not even
    poll the connection, and so never notice that Redis is gone.
    """

    def ack(self, delivery_tag: str) -> None:
        try:
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]  # as above
        finally:
            self._quick_ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        try:
            super().reject(delivery_tag, requeue)  # type: ignore[no-untyped-call]  # as above
        finally:
            self._quick_ack(delivery_tag)


class _Channel(kombu_redis.Channel):
    QoS = _QoS

    def _get_client(self) -> type[redis.Redis]:
        return _Client


class Transport(kombu_redis.Transport):
    """Drops a message whose delivery raises an error, and acknowledges it."""

    Channel = _Channel

    def _deliver(self, message: Any, queue: str) -> None:
        # with the solo pool this also runs the task, whose own errors do not propagate to here
        before = self._held()
        try:
            super()._deliver(message, queue)  # type: ignore[no-untyped-call]  # as above
        except _NOT_CAUSED_BY_MESSAGE:
            raise
        except Exception as error:
            _log_dropped(error)
            for channel, tag in self._held() - before:
                channel.qos.reject(tag)

    def _held(self) -> _Held:
        """Return the unacknowledged messages as pairs of channel and delivery tag."""
        return {
            (channel, tag)
            for channel in self.channels
            for tag in channel.qos._delivered
            if tag not in channel.qos._dirty
        }


def install() -> None:
    """Register this transport with Kombu for Redis URLs."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:{Transport.__name__}"
