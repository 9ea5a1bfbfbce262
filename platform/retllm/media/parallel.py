"""Decode pictures in parallel: results in order, memory bounded by bytes of pixels, errors kept per picture."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
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
    """Limits the bytes of pixels that are in memory at a time; who comes first gets them first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._turn = 0
        self._closed = False
        self._changed = threading.Condition()

    def take(self, turn: int, size_of: Callable[[], int]) -> int:
        """Wait for ``turn`` (from 0, each once) and for free bytes; return how many are held now.

        A size above the limit waits until nothing is held.

        Raises:
            CancelledError: the budget is closed.
            Whatever ``size_of`` raises; nothing is held then.
        """
        with self._changed:
            self._wait(lambda: self._turn == turn)
            try:
                count = size_of()
                self._wait(lambda: self._held == 0 or self._held + count <= self._limit)
                self._held += count
            finally:
                self._turn += 1
                self._changed.notify_all()
        return count

    def change(self, by: int) -> None:
        """Hold so many bytes more, or fewer, without waiting."""
        with self._changed:
            self._held += by
            self._changed.notify_all()

    def close(self) -> None:
        """End all waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _wait(self, until: Callable[[], bool]) -> None:
        self._changed.wait_for(lambda: self._closed or until())
        if self._closed:
            raise CancelledError


class InParallel(Generic[Item, Value]):
    """Iterates over the results of ``make`` for each item, in the order of the items; threads begin at once.

    Closing cancels items that have not started and waits for running ones and their threads.

    Args:
        make: runs in a thread; an exception becomes the result of its item.
        size_of: bytes of pixels that ``make`` holds while it runs.
        threads: number of items processed in parallel.
        max_bytes: maximum bytes held by all of them; a larger item runs alone.
        ahead: number of items started before the caller asks for them.
        kept_of: bytes of a result that are held until the caller takes it; they may exceed the maximum by those of the
            items in work.
    """

    def __init__(
        self,
        items: Sequence[Item],
        make: Callable[[Item], Value],
        size_of: Callable[[Item], int],
        *,
        threads: int,
        max_bytes: int,
        ahead: int,
        kept_of: Callable[[Value], int] = lambda _: 0,
    ) -> None:
        self._make, self._size_of, self._kept_of = make, size_of, kept_of
        self._budget = PixelBudget(max_bytes)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._remaining, self._call = iter(enumerate(items)), carried(self._run)
        self._started: deque[Future[tuple[Value, int]]] = deque()
        self._start(ahead)

    def __iter__(self) -> Iterator[Result[Value]]:
        return self

    def __next__(self) -> Result[Value]:
        if not self._started:
            self.close()
            raise StopIteration
        future = self._started.popleft()
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
        """Cancel what has not started, and wait for the threads."""
        self._budget.close()
        self._pool.shutdown(cancel_futures=True)
        self._started.clear()

    def _start(self, count: int) -> None:
        self._started.extend(self._pool.submit(self._call, *place) for place in islice(self._remaining, count))

    def _run(self, turn: int, item: Item) -> tuple[Value, int]:
        held = self._budget.take(turn, lambda: self._size_of(item))
        kept = 0
        try:
            value = self._make(item)
            kept = self._kept_of(value)
        finally:
            self._budget.change(kept - held)
        return value, kept
