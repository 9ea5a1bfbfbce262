"""A network path that can hang half-open: connections stay, nothing passes; then it goes on, or all are reset."""

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
    """Listens on a loopback port and passes everything on to what ``connect`` opens."""

    def __init__(self, connect: Callable[[], Awaitable[Streams]]) -> None:
        self._connect = connect
        self._loop = asyncio.new_event_loop()
        self._ending = False
        self._open: asyncio.Event
        self._writers: set[asyncio.StreamWriter] = set()
        self._near: set[asyncio.StreamWriter] = set()
        # whose other end does not know that nobody is there any more
        self._ghosts: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self.port: int = self._run(self._listen())

    @classmethod
    def to_socket(cls, path: str) -> Proxy:
        """To a server on a unix socket."""
        return cls(lambda: asyncio.open_unix_connection(path))

    @classmethod
    def to_port(cls, port: int) -> Proxy:
        """To a server on a loopback port."""
        return cls(lambda: asyncio.open_connection("127.0.0.1", port))

    def hang(self) -> None:
        """Pass nothing any more; connections stay, and new ones are taken and stay silent."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def resume(self) -> None:
        """Go on: what waited arrives now, however late."""
        self._loop.call_soon_threadsafe(self._open.set)

    def reset(self) -> None:
        """Break every connection and go on with new ones: what waited never arrives."""
        self._run(self._reset())

    def vanish(self) -> None:
        """Forget every connection without a word to either end, as a router does that was switched off and on.

        Raises:
            PermissionError: this system does not let anybody do that.
        """
        self._run(self._vanish())

    def close(self) -> None:
        """End it."""
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
        for writer in [*self._writers, *self._ghosts]:
            # no lingering: the other end gets a reset, as from a router that forgot the connection
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

    async def _vanish(self) -> None:
        for writer in list(self._near):
            sock = writer.get_extra_info("socket")
            if sock.fileno() < 0:  # it ended by itself just now
                continue
            # a connection under repair is closed without telling the other end
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
        self._ghosts |= self._writers - self._near
        for writer in list(self._near):
            writer.transport.abort()
        self._open.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._join(reader, writer)
        except asyncio.CancelledError:
            # asyncio would complain of a cancelled connection; at the end of the proxy there is nothing to complain of
            if not self._ending:
                raise

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self._near.add(writer)
        await self._open.wait()
        try:
            far_reader, far_writer = await self._connect()
        except OSError:
            writer.transport.abort()
            self._writers.discard(writer)
            self._near.discard(writer)
            return
        self._writers.add(far_writer)
        await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer), return_exceptions=True)
        self._writers -= {writer, far_writer}
        self._near.discard(writer)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while chunk := await source.read(1 << 16):
                await self._open.wait()
                sink.write(chunk)
                await sink.drain()
        except OSError:
            pass
        finally:
            if sink not in self._ghosts:
                sink.close()
