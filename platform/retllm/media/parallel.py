"""Decode pictures in parallel: results in order, memory bounded by bytes of pixels, errors kept per picture."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
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
    """Limits the bytes of pixels that are in memory at a time."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, count: int) -> Iterator[None]:
        """Wait until ``count`` bytes are free and hold them; a ``count`` above the limit waits until none are held."""
        with self._changed:
            self._changed.wait_for(lambda: self._held == 0 or self._held + count <= self._limit)
            self._held += count
        try:
            yield
        finally:
            with self._changed:
                self._held -= count
                self._changed.notify_all()


def in_parallel(
    items: Sequence[Item],
    make: Callable[[Item], Value],
    size_of: Callable[[Item], int],
    *,
    threads: int,
    max_bytes: int,
    ahead: int,
) -> Generator[Result[Value], None, None]:
    """Yield the result of ``make`` for each item, in the order of the items.

    Closing the generator cancels items that have not started and waits for running ones and their threads.

    Args:
        make: runs in a thread; an exception becomes the result of its item.
        size_of: bytes of pixels that ``make`` holds while it runs.
        threads: number of items processed in parallel.
        max_bytes: maximum bytes held by all of them; a larger item runs alone.
        ahead: number of items started before the caller asks for them.
    """
    budget, closed = PixelBudget(max_bytes), threading.Event()

    def run(item: Item) -> Value:
        with budget.hold(size_of(item)):
            # do not start an item that was waiting for the budget either
            if closed.is_set():
                raise CancelledError
            return make(item)

    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    try:
        remaining, call = iter(items), carried(run)
        started: deque[Future[Value]] = deque(pool.submit(call, item) for item in islice(remaining, ahead))
        while started:
            yield _result(started.popleft())
            started.extend(pool.submit(call, item) for item in islice(remaining, 1))
    finally:
        closed.set()
        pool.shutdown(cancel_futures=True)


def _result(future: Future[Value]) -> Result[Value]:
    try:
        return Result(future.result(), None)
    except Exception as error:
        return Result(None, error)
