"""A socket of the web server that holds no request slot while it waits for a slow client, and has a deadline."""

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
"""Bytes that a client must send or read in each period; a minimum rate rather than a total time allows any size."""

# close() then resets the connection; otherwise the system keeps offering queued data to the client for minutes
_RESET = struct.pack("ii", 1, 0)


class RequestSlots:
    """Limits the threads that run requests to ``count``; a thread releases its slot while it waits."""

    def __init__(self, count: int, on_release: Callable[[], object]) -> None:
        self._free = threading.Semaphore(count)
        self._on_release = on_release

    def try_acquire(self) -> bool:
        """Take a slot if one is free; return whether it did."""
        return self._free.acquire(blocking=False)

    def release(self) -> None:
        """Release a slot and call ``on_release``."""
        self._free.release()
        self._on_release()

    @contextmanager
    def released(self) -> Iterator[None]:
        """Release the slot of this thread inside the context."""
        self.release()
        try:
            yield
        finally:
            self._free.acquire()


class ClientSocket(socket.socket):
    """A connection whose blocking calls wait without a request slot, and only while the client makes progress.

    The underlying socket never blocks. ``setblocking`` and ``settimeout``, which Gunicorn calls, only determine what
    ``recv`` and ``send`` do when they would block.
    """

    def __init__(self, accepted: socket.socket, slots: RequestSlots, seconds: float) -> None:
        super().__init__(fileno=accepted.detach())
        super().setblocking(False)
        self._timeout: float | None = None
        self.slots = slots
        """Those of the requests of this connection; changed only between two requests."""
        self._seconds = seconds
        self._received = self._sent = self._mark = 0
        # bytes of a body that are still to come, and how many of them wake a thread
        self._due, self._wakes = 0, 1
        self._waited = 0.0
        # of the thread that handles a request of this connection
        self._holds_slot = True

    def start_period(self) -> None:
        """Start a new period for the client."""
        self._mark, self._waited = self._progress(), 0.0

    def expect(self, count: int) -> None:
        """Say how many bytes of a body are still to come; 0 or less: nobody knows, or none.

        A thread that waits for them is not woken for each few: that takes as long as for many, and hundreds of clients
        that send a byte now and then would keep the server busy.
        """
        self._due = max(0, count)
        self._wake_for(1)

    def _wake_for(self, count: int) -> None:
        if count != self._wakes:
            self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
            self._wakes = count

    @contextmanager
    def without_slot(self) -> Iterator[None]:
        """Release the request slot of this thread inside the context, which may be inside another one."""
        if not self._holds_slot:
            yield
            return
        self._holds_slot = False
        try:
            with self.slots.released():
                yield
        finally:
            self._holds_slot = True

    def setblocking(self, flag: bool) -> None:
        """Let calls wait, or raise ``BlockingIOError``."""
        self._timeout = None if flag else 0.0

    def settimeout(self, value: float | None) -> None:
        """Set the timeout of one call."""
        self._timeout = value

    def gettimeout(self) -> float | None:
        """Return the timeout of one call."""
        return self._timeout

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Receive data from the client.

        Raises:
            TimeoutError: the timeout of ``settimeout`` is over.
            ConnectionResetError: the client is too slow or gone.
        """
        while True:
            try:
                data = super().recv(bufsize, flags)
            except BlockingIOError:
                self._wait(select.POLLIN)
            else:
                self._received += len(data)
                self._due = max(0, self._due - len(data))
                return data

    def send(self, data: Any, flags: int = 0) -> int:
        """Send a part of ``data`` and return its size; raises like ``recv``."""
        while True:
            try:
                sent = super().send(data, flags)
            except BlockingIOError:
                self._wait(select.POLLOUT)
            else:
                self._sent += sent
                return sent

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send all of ``data``; raises like ``recv``."""
        rest = memoryview(data)
        while rest:
            rest = rest[self.send(rest, flags) :]

    def _wait(self, event: int) -> None:
        if self._timeout == 0:
            raise BlockingIOError
        if event == select.POLLIN:
            self._wake_for(max(1, min(self._due, MIN_BYTES)))
        poll = select.poll()
        poll.register(self, event)
        with self.without_slot():
            while True:
                if self._progress() - self._mark >= MIN_BYTES:
                    self.start_period()
                left = self._seconds - self._waited
                if left <= 0:
                    self._abort(event)
                wait = left if self._timeout is None else min(left, self._timeout)
                began = time.monotonic()
                ready = poll.poll(wait * 1000)
                # counts only the time spent waiting, not the time of the server itself
                self._waited += time.monotonic() - began
                if ready:
                    return
                if self._timeout is not None:
                    raise TimeoutError

    def _abort(self, event: int) -> None:
        if event == select.POLLOUT:
            self.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        raise ConnectionResetError(f"the client transferred less than {MIN_BYTES} bytes in {self._seconds:g} s")

    def _progress(self) -> int:
        """Return the bytes that the client sent and read; data in the system's send queue is not read yet."""
        try:
            queued = struct.unpack("i", fcntl.ioctl(self, termios.TIOCOUTQ, bytes(4)))[0]
        except OSError:  # not supported everywhere; then queued data counts as read
            queued = 0
        return self._received + self._sent - int(queued)
