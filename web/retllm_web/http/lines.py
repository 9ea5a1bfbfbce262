"""Lines for what costs a request much: few do it at a time, few wait for it, and all others are told to come again."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from retllm.errors import Busy
from retllm_web.http.waiting import without_slot


class Line:
    """Lets ``places`` requests at a time in, and ``waiting`` more wait for that; thread-safe.

    Args:
        seconds: after which those who find the line full are told to come again.
    """

    def __init__(self, places: int, waiting: int, seconds: int) -> None:
        self._room = threading.BoundedSemaphore(places + waiting)
        self._places = threading.BoundedSemaphore(places)
        self._seconds = seconds

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place inside the context; the body of the request must have been read before.

        Raises:
            Busy: all places are taken, and as many wait as may.
        """
        if not self._room.acquire(blocking=False):
            raise Busy(retry_after=self._seconds)
        try:
            with without_slot():
                self._places.acquire()
            try:
                yield
            finally:
                self._places.release()
        finally:
            self._room.release()


class Places:
    """Places for what takes long, at most half of them for one account; nobody waits for one. Thread-safe."""

    def __init__(self, number: int) -> None:
        self._lock = threading.Lock()
        self._number = number
        self._taken: Counter[UUID] = Counter()

    def total(self) -> int:
        """Return how many are taken."""
        with self._lock:
            return self._taken.total()

    def take(self, account: UUID) -> bool:
        """Take a place for an account if it may have one more; return whether it did."""
        with self._lock:
            is_free = self._taken.total() < self._number and self._taken[account] < (self._number + 1) // 2
            self._taken[account] += is_free
            self._taken += Counter()
            return is_free

    def leave(self, account: UUID) -> None:
        """Give a place of an account back."""
        with self._lock:
            self._taken[account] -= 1
            self._taken += Counter()
