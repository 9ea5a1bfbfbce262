"""Kombu's transport over Redis, but that neither a message nor a Redis that goes away stops the worker for good.

Kombu and Celery refuse what they foresee: a pickle, YAML, a task that nobody knows. At anything else, such as a body
that is no arguments, the error ends the worker, or has it connect again, and the message is put back before: it would
do that to every worker that there is, for ever. Hints may be lost (design: jobs), so such a message is dropped.
"""

from __future__ import annotations

from typing import Any

import redis
import structlog
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as kombu_redis
from kombu.utils.json import loads

log = structlog.get_logger(__name__)

# what Redis or the machine have done; a KeyError, which Kombu takes for a lost connection too, is the message's fault
_NO_FAULT_OF_A_MESSAGE = (
    MemoryError,
    redis.InvalidResponse,
    redis.ResponseError,
    *(error for error in kombu_redis.Transport.connection_errors if error is not KeyError),
)

_Held = set[tuple[Any, Any]]


def _refuse(error: Exception) -> None:
    log.error("message.refused", reason=f"{type(error).__name__}: {error}"[:200], exc_info=True)


class _Client(redis.Redis):
    """Passes over an entry of a queue that can't be read, which is out of the queue by then."""

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        answer = super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]  # redis-py either
        if command_name == "BRPOP" and answer:
            try:
                # as Kombu does next, whose own hooks fail in many ways
                loads(answer[1])  # type: ignore[no-untyped-call]  # kombu has few types
            except Exception as error:
                _refuse(error)
                return None
        return answer


class _QoS(kombu_redis.QoS):
    """Counts a message as dealt with even where Redis could not be told so, and may bring it once more.

    Else a worker of one message at a time would take it for the one that it holds, and wait for no other for ever: it
    would not even ask on the connection by which it would learn that Redis went away.
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
    """Drops a message at which what takes it fails, and acknowledges it."""

    Channel = _Channel

    def _deliver(self, message: Any, queue: str) -> None:
        # in a pool of one thread this does the task as well, whose own errors never get this far
        before = self._held()
        try:
            super()._deliver(message, queue)  # type: ignore[no-untyped-call]  # as above
        except _NO_FAULT_OF_A_MESSAGE:
            raise
        except Exception as error:
            _refuse(error)
            for channel, tag in self._held() - before:
                channel.qos.reject(tag)

    def _held(self) -> _Held:
        """The messages that were taken and not acknowledged, each with its channel."""
        return {
            (channel, tag)
            for channel in self.channels
            for tag in channel.qos._delivered
            if tag not in channel.qos._dirty
        }


def install() -> None:
    """Have Kombu take this transport for the addresses of Redis."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:{Transport.__name__}"
