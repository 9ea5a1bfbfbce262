"""The web server's side of a connection: waiting for a slow client occupies no request slot, and has a deadline."""

from __future__ import annotations

import fcntl
import select
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

MIN_BYTES = 16 << 10
"""Bytes that a client must send or take in each period; a rate and not a total time, so that any size gets through."""

# close() then resets the connection; the system would offer what is queued for minutes to a client that takes nothing
_RESET = struct.pack("ii", 1, 0)


class RequestSlots:
    """At most ``count`` threads run requests. One that waits for its client gives its slot to another meanwhile."""

    def __init__(self, count: int, on_release: Callable[[], object]) -> None:
        self._free = threading.Semaphore(count)
        self._on_release = on_release

    def try_acquire(self) -> bool:
        """Take a slot if there is a free one."""
        return self._free.acquire(blocking=False)

    def release(self) -> None:
        """Free a slot, and say so."""
        self._free.release()
        self._on_release()

    @contextmanager
    def released(self) -> Iterator[None]:
        """Go without the slot of this thread for a while."""
        self.release()
        try:
            yield
        finally:
            self._free.acquire()


class ClientSocket(socket.socket):
    """A connection whose blocking calls wait without a request slot, and only while the client makes progress.

    The system's socket never blocks. Gunicorn's ``setblocking`` and ``settimeout`` only say what ``recv`` and ``send``
    do when they would have to wait.
    """

    def __init__(self, accepted: socket.socket, slots: RequestSlots, seconds: float) -> None:
        super().__init__(fileno=accepted.detach())
        super().setblocking(False)
        self._timeout: float | None = None
        self._slots = slots
        self._seconds = seconds
        self._received = self._sent = self._mark = 0
        self._waited = 0.0

    def start_period(self) -> None:
        """Let the client have the whole period again."""
        self._mark, self._waited = self._progress(), 0.0

    def setblocking(self, flag: bool) -> None:
        """Wait, or raise ``BlockingIOError``."""
        self._timeout = None if flag else 0.0

    def settimeout(self, value: float | None) -> None:
        """Wait for at most so long in one call."""
        self._timeout = value

    def gettimeout(self) -> float | None:
        """What ``settimeout`` was told."""
        return self._timeout

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """What the client sent.

        Raises:
            TimeoutError: it sent nothing in the time of ``settimeout``.
            ConnectionResetError: it is too slow, or gone.
        """
        while True:
            try:
                data = super().recv(bufsize, flags)
            except BlockingIOError:
                self._wait(select.POLLIN)
            else:
                self._received += len(data)
                return data

    def send(self, data: Any, flags: int = 0) -> int:
        """Send a part of ``data``; errors are those of ``recv``."""
        while True:
            try:
                sent = super().send(data, flags)
            except BlockingIOError:
                self._wait(select.POLLOUT)
            else:
                self._sent += sent
                return sent

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send all of ``data``; errors are those of ``recv``."""
        rest = memoryview(data)
        while rest:
            rest = rest[self.send(rest, flags) :]

    def _wait(self, event: int) -> None:
        if self._timeout == 0:
            raise BlockingIOError
        poll = select.poll()
        poll.register(self, event)
        with self._slots.released():
            while True:
                if self._progress() - self._mark >= MIN_BYTES:
                    self.start_period()
                left = self._seconds - self._waited
                if left <= 0:
                    self._give_up(event)
                wait = left if self._timeout is None else min(left, self._timeout)
                began = time.monotonic()
                ready = poll.poll(wait * 1000)
                # only this wait counts, and not what the server itself takes between two
                self._waited += time.monotonic() - began
                if ready:
                    return
                if self._timeout is not None:
                    raise TimeoutError

    def _give_up(self, event: int) -> None:
        if event == select.POLLOUT:
            self.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        raise ConnectionResetError(f"the client moved less than {MIN_BYTES} bytes in {self._seconds:g} s")

    def _progress(self) -> int:
        """Bytes that the client sent, and bytes that it took: what waits in the system's queue is not taken."""
        try:
            queued = struct.unpack("i", fcntl.ioctl(self, termios.TIOCOUTQ, bytes(4)))[0]
        except OSError:  # not every system tells; then what the queue took counts
            queued = 0
        return self._received + self._sent - int(queued)
