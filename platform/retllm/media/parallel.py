"""Pictures decoded side by side: in order, bounded by the bytes of their pixels, each with an outcome of its own."""

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

Given = TypeVar("Given")
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Result(Generic[Made]):
    """What came of one picture, or the error that it ended with."""

    made: Made | None
    error: Exception | None


class PixelBudget:
    """Bytes of pixels that may be in memory at a time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, count: int) -> Iterator[None]:
        """Wait for room for so many bytes and keep it; more than there can ever be are held alone."""
        with self._changed:
            self._changed.wait_for(lambda: self._held == 0 or self._held + count <= self._most)
            self._held += count
        try:
            yield
        finally:
            with self._changed:
                self._held -= count
                self._changed.notify_all()


def in_parallel(
    items: Sequence[Given],
    make: Callable[[Given], Made],
    size_of: Callable[[Given], int],
    *,
    threads: int,
    most_bytes: int,
    ahead: int,
) -> Generator[Result[Made], None, None]:
    """What ``make`` makes of each item, in the order of the items.

    Closing the iterator drops what was not begun and waits for what was; afterwards its threads are gone.

    Args:
        make: runs in one of the threads; what it raises is the result of its item alone.
        size_of: bytes of pixels that ``make`` holds while it runs.
        threads: items at work at a time.
        most_bytes: held at a time by all of them; an item larger than that runs alone.
        ahead: items begun or ready before they are asked for.
    """
    budget, closed = PixelBudget(most_bytes), threading.Event()

    def run(item: Given) -> Made:
        with budget.hold(size_of(item)):
            # those that waited for room are not begun either
            if closed.is_set():
                raise CancelledError
            return make(item)

    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    try:
        remaining, call = iter(items), carried(run)
        begun: deque[Future[Made]] = deque(pool.submit(call, item) for item in islice(remaining, ahead))
        while begun:
            yield _result(begun.popleft())
            begun.extend(pool.submit(call, item) for item in islice(remaining, 1))
    finally:
        closed.set()
        pool.shutdown(cancel_futures=True)


def _result(future: Future[Made]) -> Result[Made]:
    try:
        return Result(future.result(), None)
    except Exception as error:
        return Result(None, error)
