"""Decode pictures in parallel: results in order, memory bounded by bytes of pixels, errors kept per picture."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from typing import Generic, TypeVar

from retllm.logs import carried

Item = TypeVar("Item")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Result(Generic[Value]):
    """The value of one item, or its error."""

    value: Value | None
    error: Exception | None


class PixelBudget:
    """Limits the bytes of pixels that are in memory at a time; who asked first gets them first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._tickets = count()
        # ordered
        self._waiting: dict[int, None] = {}
        self._changed = threading.Condition()

    def ticket(self) -> int:
        """Ask for bytes; :meth:`take` gets them."""
        with self._changed:
            ticket = next(self._tickets)
            self._waiting[ticket] = None
        return ticket

    def take(self, ticket: int, size_of: Callable[[], int]) -> int:
        """Wait until the ticket is the first and the bytes are free; return how many are held now.

        A size above the limit waits until nothing is held.

        Raises:
            CancelledError: the ticket was dropped.
            Whatever ``size_of`` raises; nothing is held then.
        """
        with self._changed:
            self._wait(ticket, lambda: next(iter(self._waiting)) == ticket)
            try:
                size = size_of()
                self._wait(ticket, lambda: self._held == 0 or self._held + size <= self._limit)
                self._held += size
            finally:
                self._drop([ticket])
        return size

    def change(self, by: int) -> None:
        """Hold so many bytes more, or fewer, without waiting."""
        with self._changed:
            self._held += by
            self._changed.notify_all()

    def drop(self, tickets: Iterable[int]) -> None:
        """End the waits with these tickets."""
        with self._changed:
            self._drop(tickets)

    def _drop(self, tickets: Iterable[int]) -> None:
        for ticket in tickets:
            self._waiting.pop(ticket, None)
        self._changed.notify_all()

    def _wait(self, ticket: int, until: Callable[[], bool]) -> None:
        self._changed.wait_for(lambda: ticket not in self._waiting or until())
        if ticket not in self._waiting:
            raise CancelledError


class InParallel(Generic[Item, Value]):
    """Iterates over the results of ``make`` for each item, in the order of the items; threads begin at once.

    Closing cancels items that have not started and waits for running ones and their threads.

    Args:
        make: runs in a thread; an exception becomes the result of its item.
        size_of: bytes of pixels that ``make`` holds while it runs.
        threads: number of items processed in parallel.
        budget: maximum bytes held by all of them, and by all others that share it; a larger item runs alone. Of two
            that share it, the one that began first has to be used or closed first.
        ahead: number of items started before the caller asks for them.
        kept_of: bytes of a result that are held until the caller takes it. An item takes as many as the largest result
            so far had, so that the maximum may only be exceeded by the first ones.
    """

    def __init__(
        self,
        items: Sequence[Item],
        make: Callable[[Item], Value],
        size_of: Callable[[Item], int],
        *,
        threads: int,
        budget: PixelBudget,
        ahead: int,
        kept_of: Callable[[Value], int] = lambda _: 0,
    ) -> None:
        self._make, self._size_of, self._kept_of = make, size_of, kept_of
        self._most_kept = 0
        self._budget = budget
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._remaining, self._call = iter(items), carried(self._run)
        self._started: deque[tuple[int, Future[tuple[Value, int]]]] = deque()
        self._start(ahead)

    def __iter__(self) -> Iterator[Result[Value]]:
        return self

    def __next__(self) -> Result[Value]:
        if not self._started:
            self.close()
            raise StopIteration
        _, future = self._started.popleft()
        try:
            value, kept = future.result()
        except Exception as error:
            result: Result[Value] = Result(None, error)
        else:
            self._budget.change(-kept)
            result = Result(value, None)
        self._start(1)
        return result

    def close(self) -> None:
        """Cancel what has not started, wait for the threads, and discard what was not taken."""
        self._budget.drop(ticket for ticket, _ in self._started)
        self._pool.shutdown(cancel_futures=True)
        for _, future in self._started:
            if not future.cancelled() and future.exception() is None:
                self._budget.change(-future.result()[1])
        self._started.clear()

    def _start(self, count: int) -> None:
        for item in islice(self._remaining, count):
            ticket = self._budget.ticket()
            self._started.append((ticket, self._pool.submit(self._call, ticket, item)))

    def _run(self, ticket: int, item: Item) -> tuple[Value, int]:
        held = self._budget.take(ticket, lambda: self._size_of(item) + self._most_kept)
        kept = 0
        try:
            value = self._make(item)
            kept = self._kept_of(value)
            self._most_kept = max(self._most_kept, kept)
        finally:
            self._budget.change(kept - held)
        return value, kept
