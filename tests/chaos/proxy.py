"""A proxy that can hang: connections stay open without traffic, and are then resumed, reset or dropped silently."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

# of Linux: see tcp(7)
_TCP_REPAIR = 19

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Proxy:
    """Listens on a loopback port and forwards each connection to one that ``connect`` opens."""

    def __init__(self, connect: Callable[[], Awaitable[Streams]]) -> None:
        self._connect = connect
        self._loop = asyncio.new_event_loop()
        self._ending = False
        self._open: asyncio.Event
        self._writers: set[asyncio.StreamWriter] = set()
        self._client_writers: set[asyncio.StreamWriter] = set()
        # connections to servers that do not know that the client is gone
        self._half_open: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self.port: int = self._run(self._listen())

    @classmethod
    def to_socket(cls, path: str) -> Proxy:
        """Return a proxy for a server on a Unix socket."""
        return cls(lambda: asyncio.open_unix_connection(path))

    @classmethod
    def to_port(cls, port: int) -> Proxy:
        """Return a proxy for a server on a loopback port."""
        return cls(lambda: asyncio.open_connection("127.0.0.1", port))

    def hang(self) -> None:
        """Stop forwarding; connections stay open, and new ones are accepted but get no data."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def resume(self) -> None:
        """Forward again, first the data that was held back."""
        self._loop.call_soon_threadsafe(self._open.set)

    def reset(self) -> None:
        """Reset every connection and forward new ones; data that was held back is lost."""
        self._run(self._reset())

    def drop_silently(self) -> None:
        """Drop every connection without informing either end, as a restarted router does.

        Raises:
            PermissionError: this process may not do that.
        """
        self._run(self._drop_silently())

    def close(self) -> None:
        """Close all connections and stop."""
        self._run(self._reset())
        self._run(self._end_tasks())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _listen(self) -> int:
        self._open = asyncio.Event()
        self._open.set()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(server.sockets[0].getsockname()[1])

    async def _reset(self) -> None:
        for writer in [*self._writers, *self._half_open]:
            # without lingering the other end gets a reset
            with contextlib.suppress(OSError):
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        self._open.set()

    async def _end_tasks(self) -> None:
        self._ending = True
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def _drop_silently(self) -> None:
        for writer in list(self._client_writers):
            sock = writer.get_extra_info("socket")
            if sock.fileno() < 0:  # it has just been closed
                continue
            # a connection in repair mode is closed without informing the other end
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
        self._half_open |= self._writers - self._client_writers
        for writer in list(self._client_writers):
            writer.transport.abort()
        self._open.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._join(reader, writer)
        except asyncio.CancelledError:
            # asyncio would log an error for the cancelled task
            if not self._ending:
                raise

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self._client_writers.add(writer)
        await self._open.wait()
        try:
            far_reader, far_writer = await self._connect()
        except OSError:
            writer.transport.abort()
            self._writers.discard(writer)
            self._client_writers.discard(writer)
            return
        self._writers.add(far_writer)
        await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer), return_exceptions=True)
        self._writers -= {writer, far_writer}
        self._client_writers.discard(writer)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while chunk := await source.read(1 << 16):
                await self._open.wait()
                sink.write(chunk)
                await sink.drain()
        except OSError:
            pass
        finally:
            if sink not in self._half_open:
                sink.close()
