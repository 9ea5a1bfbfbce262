"""Gunicorn's thread worker, hardened against slow clients.

Gunicorn's own worker starts a thread at the first byte of a request, which then waits for the rest of the request and
for the client to read the answer: a few slow clients can block all threads. In this worker

- the main loop reads the header of a request, and a thread takes it when the header is complete;
- a thread that waits for its client to send a body or read an answer, or for a decoder, or that sends an export or an
  original, holds no request slot (``client_socket``);
- each health check has a request slot of its own, so that it is answered while all others are in use;
- too slow clients are disconnected, and at the maximum number of connections the longest waiting one is closed.
"""

from __future__ import annotations

import contextvars
import errno
import re
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import gunicorn.util
from gunicorn.errors import ConfigError
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, TConn, ThreadWorker

from retllm.settings import get_settings
from retllm.stack.client_socket import ClientSocket, RequestSlots

# a longer header is read by a thread, whose parser enforces the limits
_HEADER_BYTES = 16 << 10
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r\n", re.IGNORECASE)
_BARE_LF = re.compile(rb"(?<!\r)\n")
# before closing, read what the client still sends; otherwise a reset could lose the answer
_LINGER_SECONDS = 2.0
_LINGER_BYTES = 64 << 10
_SWEEP_SECONDS = 0.5
_FREE_SECONDS = 5.0
# what forms are parsed in; Gunicorn reads up to 1 MiB ahead, and copies all of it again for each piece that is parsed
_BODY_BYTES = 64 << 10
_CHECK = re.compile(rb"(?:GET|HEAD) /(healthz|readyz)[ ?]")
_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Connection(TConn):  # type: ignore[misc]  # Gunicorn has no types
    """A connection and what the main loop has read of its next request."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.received = bytearray()
        self.lingered = 0
        # a thread parses at once, without waiting for the first byte
        self.data_ready = True

    def add(self, data: bytes) -> bool:
        """Append ``data``; return whether a thread can continue: the header is complete, too long or malformed."""
        seen = max(0, len(self.received) - 3)
        self.received += data
        return (
            self.received.find(b"\r\n\r\n", seen) >= 0
            or len(self.received) > _HEADER_BYTES
            or _BARE_LF.search(self.received, seen) is not None
            or not (self.received[:1].isalpha() or self.received[:1] == b"\r")
        )

    def take(self) -> bytes:
        """Return what was received, and let the socket wait for the rest of the body."""
        taken = bytes(self.received)
        self.received.clear()
        end = taken.find(b"\r\n\r\n") + 4
        length = _LENGTH.search(taken, 0, end) if end > 3 else None
        self.sock.expect(int(length[1]) - (len(taken) - end) if length else 0)
        return taken


class Line:
    """Connections with a request that waits for one of ``count`` slots."""

    def __init__(self, count: int, on_release: Callable[[], object]) -> None:
        self.slots = RequestSlots(count, on_release)
        self._ready: deque[Connection] = deque()

    def add(self, conn: Connection) -> None:
        """Let a connection wait for a slot."""
        conn.sock.slots = self.slots
        self._ready.append(conn)

    def next(self) -> Connection | None:
        """Return the connection that has waited longest, with a slot for it, if there is one of each."""
        return self._ready.popleft() if self._ready and self.slots.try_acquire() else None


class Threads:
    """Runs tasks in threads, each at once; a thread that is done waits some seconds for another task.

    To start a thread takes as long as a short answer, and the main loop would wait for it. Each task has context
    variables of its own, as in a new thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tasks: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._free = 0

    def run(self, task: Callable[[], object]) -> None:
        """Run a task, which raises nothing.

        Raises:
            RuntimeError: no thread can be started.
        """
        with self._lock:
            if self._free:
                self._free -= 1
                self._tasks.put(task)
                return
        threading.Thread(target=self._work, args=(task,), daemon=True).start()

    def _work(self, task: Callable[[], object]) -> None:
        while True:
            contextvars.Context().run(task)
            del task
            with self._lock:
                self._free += 1
            try:
                task = self._tasks.get(timeout=_FREE_SECONDS)
            except Empty:
                with self._lock:
                    # whoever lowered the number has given or will give a task to one of those that are left
                    if self._free:
                        self._free -= 1
                        return
                task = self._tasks.get()


class Worker(ThreadWorker):  # type: ignore[misc]  # Gunicorn has no types
    """Serves requests with ``threads`` threads, which slow clients do not block."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        SocketUnreader.max_body_chunk = _BODY_BYTES
        self._seconds = get_settings().client_seconds
        self._threads = Threads()
        self._requests, *checks = (
            Line(count, lambda: self.method_queue.defer(self._start_ready)) for count in (self.cfg.threads, 1, 1)
        )
        # one that waits for the database does not delay the other
        self._checks = dict(zip((b"healthz", b"readyz"), checks, strict=True))
        # connections in the main loop with their deadlines, oldest first
        self._waiting: dict[Connection, float] = {}
        self._swept = 0.0

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Reject a configuration with TLS."""
        super().check_config(cfg, log)
        if cfg.is_ssl:
            raise ConfigError("This server does not support TLS: put a reverse proxy in front of it.")

    def accept(self, listener: Any) -> None:
        """Accept a connection and read its first header in the main loop."""
        try:
            accepted, address = listener.accept()
        except OSError as error:
            if error.errno in _OUT_OF_FILES:
                self.log.warning("Can't accept a connection: %s", error)
                self._evict()
                time.sleep(0.1)
            elif error.errno not in (errno.EAGAIN, errno.ECONNABORTED, errno.EWOULDBLOCK):
                raise
            return
        self.nr_conns += 1
        client = ClientSocket(accepted, self._requests.slots, self._seconds)
        self._watch(Connection(self.cfg, client, address, listener.getsockname()), self._seconds, self._read_header)
        if self.nr_conns >= self.worker_connections:
            self._evict()

    def _evict(self) -> None:
        """Close the longest waiting connection, which is idle or sends its header slowly."""
        if self._waiting:
            self._drop(next(iter(self._waiting)))

    def _watch(self, conn: Connection, seconds: float, on_readable: Any) -> None:
        conn.sock.setblocking(False)
        self._waiting[conn] = time.monotonic() + seconds
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(on_readable, conn))

    def _unwatch(self, conn: Connection) -> None:
        del self._waiting[conn]
        self.poller.unregister(conn.sock)

    def _drop(self, conn: Connection) -> None:
        self._unwatch(conn)
        self._close(conn)

    def _close(self, conn: Connection) -> None:
        self.nr_conns -= 1
        conn.close()

    def _read(self, conn: Connection) -> bytes | None:
        """Return the received data, empty at the end of the stream; None if there is nothing to do."""
        # another event of this round may have closed it
        if conn not in self._waiting:
            return None
        try:
            data: bytes = conn.sock.recv(_HEADER_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            self._drop(conn)
            return None
        return data

    def _read_header(self, conn: Connection, _: Any) -> None:
        data = self._read(conn)
        if data is None:
            return
        if not conn.received:
            if not data:
                self._drop(conn)
                return
            self._waiting[conn] = time.monotonic() + self._seconds
        if conn.add(data) or not data:
            self._unwatch(conn)
            self.enqueue_req(conn)

    def enqueue_req(self, conn: Connection) -> None:
        """Let a thread handle the request as soon as a slot is free."""
        # a thread that still reads the header would keep others waiting for its slot
        check = _CHECK.match(conn.received) if b"\r\n\r\n" in conn.received else None
        line = self._checks[check[1]] if check else self._requests
        line.add(conn)
        self._start_ready()

    def _start_ready(self) -> None:
        for line in (*self._checks.values(), self._requests):
            while conn := line.next():
                try:
                    self._threads.run(partial(self._serve, conn, line.slots))
                except RuntimeError as error:
                    self.log.warning("Can't start a thread: %s", error)
                    self._close(conn)
                    line.slots.release()

    def _serve(self, conn: Connection, slots: RequestSlots) -> None:
        keep = False
        try:
            keep = self.handle(conn)
        finally:
            self.method_queue.defer(self._finish, conn, keep)
            slots.release()

    def handle(self, conn: Connection) -> bool:
        """Handle the request whose header was read; return whether the connection stays open."""
        conn.sock.start_period()
        conn.init()
        conn.parser.unreader.unread(conn.take())
        return bool(super().handle(conn))

    def _keepalive_after(self, conn: Connection, keepalive: bool) -> bool:
        """Return whether the connection can be used again, after the rest of a body that was answered without it.

        Gunicorn waits 5 seconds for the rest; slow clients would come again, and each time for an answer.
        """
        return keepalive and bool(conn.parser.finish_body(deadline=time.monotonic() + self._seconds))

    def _finish(self, conn: Connection, keep: bool) -> None:
        try:
            conn.sock.expect(0)
            if not keep:
                conn.sock.shutdown(socket.SHUT_WR)
                self._watch(conn, _LINGER_SECONDS, self._linger)
            elif conn.parser.unreader.buf.getvalue():
                # the client sent the next request together with this one
                self.enqueue_req(conn)
            else:
                limit = self.cfg.keepalive if self.alive else min(self.cfg.keepalive, STOP_KEEPALIVE_LINGER)
                self._watch(conn, limit, self._read_header)
        except (OSError, ValueError):
            # the client is gone, or the socket was closed after an error
            self._close(conn)

    def _linger(self, conn: Connection, _: Any) -> None:
        data = self._read(conn)
        if data is None:
            return
        conn.lingered += len(data)
        if not data or conn.lingered >= _LINGER_BYTES:
            self._drop(conn)

    def murder_keepalived(self, force: bool = False) -> None:
        """Close connections after their deadline, or all waiting ones; called after each round of the main loop."""
        now = time.monotonic()
        if not force and now < self._swept + _SWEEP_SECONDS:
            return
        self._swept = now
        for conn, deadline in list(self._waiting.items()):
            if not force and now < deadline:
                continue
            if conn.received:
                self._send_timeout(conn)
            self._drop(conn)

    def _send_timeout(self, conn: Connection) -> None:
        try:
            gunicorn.util.write_error(conn.sock, 408, "Request Timeout", "")
        except OSError:
            self.log.debug("A slow client is gone.")

    def _cap_keepalive(self, deadline: float) -> None:
        """Limit the deadlines of waiting connections when the server stops."""
        for conn, until in self._waiting.items():
            self._waiting[conn] = min(until, deadline)
