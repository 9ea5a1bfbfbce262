"""A time limit for all of an HTTP exchange, and its end: what the libraries leave open.

The limits of httpx are those of one read: a server that sends one byte of a header now and then, or one provisional
answer (1xx) after another, is never too slow for them.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import httpcore
import httpx

#: a write of more waits several times for room in the buffer of the socket
_PIECE = 1 << 14


class Deadline:
    """The time at which the exchange of the thread ends."""

    def __init__(self) -> None:
        self._of_thread = threading.local()

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Let an exchange on connections of :meth:`guard` end with httpx.TimeoutException after ``seconds``."""
        self._of_thread.end = time.monotonic() + seconds
        try:
            yield
        finally:
            self._of_thread.end = None

    def left(self, timeout: float | None) -> float | None:
        """Return the timeout of an operation, which is at most what is left.

        Raises:
            httpcore.ReadTimeout: nothing is left.
        """
        end = getattr(self._of_thread, "end", None)
        if end is None:
            return timeout
        left: float = end - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("the answer does not end")
        return left if timeout is None else min(left, timeout)

    def guard(self, client: httpx.Client) -> None:
        """Make this the deadline of all connections of a client, also those through a proxy."""
        for pool in _pools(client):
            pool._network_backend = _Backend(pool._network_backend, self)


def sent_more(client: httpx.Client, response: httpx.Response) -> bool:
    """Return whether a server has sent more than its answer, which has been read to its end and is not closed.

    The rest would be taken for the answer to the next request on that connection; it is closed.
    """
    stream: Any = response.extensions["network_stream"]
    for connection in chain.from_iterable(pool.connections for pool in _pools(client)):
        while hasattr(connection, "_connection"):
            connection = connection._connection
        own: Any = getattr(connection, "_network_stream", None)
        if own is stream and connection._h11_state.trailing_data[0]:
            stream.close()
            return True
    return False


def _pools(client: httpx.Client) -> list[Any]:
    """Return the connection pools, for which httpx has no argument."""
    transports: list[Any] = [client._transport, *client._mounts.values()]
    # None is the transport of hosts that need no proxy
    return [transport._pool for transport in transports if transport is not None]


class _Backend(httpcore.NetworkBackend):
    def __init__(self, plain: httpcore.NetworkBackend, deadline: Deadline) -> None:
        self._plain = plain
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        left = self._deadline.left(timeout)
        return _Stream(self._plain.connect_tcp(host, port, left, local_address, socket_options), self._deadline)


class _Stream(httpcore.NetworkStream):
    def __init__(self, plain: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._plain = plain
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._plain.read(max_bytes, self._deadline.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for at in range(0, len(buffer), _PIECE):
            self._plain.write(buffer[at : at + _PIECE], self._deadline.left(timeout))

    def close(self) -> None:
        self._plain.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = self._deadline.left(timeout)
        return _Stream(self._plain.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._plain.get_extra_info(info)
