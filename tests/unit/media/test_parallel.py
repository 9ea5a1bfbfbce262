"""Items are processed in parallel, in order, within a limit of bytes, and each has its own result."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from retllm.errors import MediaRejected
from retllm.media import parallel
from retllm.media.parallel import InParallel, PixelBudget

# longer than any wait takes on a busy machine
DEADLINE = 60


def size_of(item: int) -> int:
    return item


def many(items: Sequence[int], make: Callable[[int], Any], **more: Any) -> InParallel[int, Any]:
    usual = {"size_of": size_of, "threads": 4, "budget": PixelBudget(1000), "ahead": 8}
    return InParallel(items, make, **(usual | more))


class Watch:
    """Records which items are processed at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.items: list[int] = []
        self.most_bytes = 0
        self.concurrent: dict[int, int] = {}

    def make(self, item: int) -> int:
        with self._lock:
            self.items.append(item)
            self.most_bytes = max(self.most_bytes, sum(self.items))
            for one in self.items:
                self.concurrent[one] = max(self.concurrent.get(one, 0), len(self.items))
        threading.Event().wait(0.002)
        with self._lock:
            self.items.remove(item)
        return -item


def decoding_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_several_items_are_processed_at_once() -> None:
    barrier = threading.Barrier(4, timeout=DEADLINE)

    def make(item: int) -> int:
        barrier.wait()
        return item

    assert [result.value for result in many(list(range(8)), make)] == list(range(8))


def test_results_keep_the_order_of_the_items() -> None:
    second = threading.Event()

    def make(item: int) -> int:
        if item == 0:
            assert second.wait(DEADLINE)
        if item == 1:
            second.set()
        return item * 10

    assert [result.value for result in many(list(range(20)), make)] == [item * 10 for item in range(20)]


def test_items_in_progress_stay_within_the_byte_limit_and_a_larger_item_runs_alone() -> None:
    watch = Watch()
    sizes = [400 + at for at in range(20)]
    huge = [5000, 3000]
    items = [*sizes[:7], huge[0], *sizes[7:12], huge[1], *sizes[12:]]
    results = [result.value for result in many(items, watch.make)]
    assert results == [-item for item in items]
    assert {watch.concurrent[item] for item in huge} == {1}
    assert all(concurrent <= 2 for concurrent in watch.concurrent.values())
    assert watch.most_bytes == max(huge)


def test_results_that_nobody_has_taken_count_until_they_are_taken() -> None:
    events: list[object] = []
    measured = threading.Semaphore(0)

    def measure(item: int) -> int:
        measured.release()
        return 400

    both = threading.Barrier(2, timeout=DEADLINE)

    def make(item: int) -> int:
        events.append(item)
        if item < 2:
            # both have their bytes before either has a result
            both.wait()
        return item

    with closing(many(range(3), make, size_of=measure, kept_of=lambda _: 500)) as results:
        for _ in range(3):
            assert measured.acquire(timeout=DEADLINE)
        events.append("taken")
        assert [result.value for result in results] == [0, 1, 2]
    assert [set(events[:2]), *events[2:]] == [{0, 1}, "taken", 2]


def test_an_item_whose_size_is_unknown_is_an_error_and_the_others_are_made() -> None:
    def measure(item: int) -> int:
        if item == 1:
            raise MediaRejected("The picture has no size.")
        return 600

    results = list(many(range(4), lambda item: item, size_of=measure, kept_of=lambda _: 600))
    assert [result.value for result in results] == [0, None, 2, 3]


def test_a_failed_item_does_not_affect_the_others() -> None:
    def make(item: int) -> int:
        if item == 3:
            raise MediaRejected("The picture is damaged.")
        return item

    results = list(many(list(range(9)), make))
    assert [result.value for result in results] == [0, 1, 2, None, 4, 5, 6, 7, 8]
    assert [type(result.error) for result in results if result.error] == [MediaRejected]


def test_only_the_allowed_number_of_items_is_started_ahead() -> None:
    started: list[int] = []
    with closing(many(list(range(100)), started.append, size_of=lambda _: 1, ahead=6)) as results:
        for taken in range(1, 10):
            next(results)
            # one more may have started by the time the next result is requested
            assert len(started) <= taken + 6
    assert len(started) <= 16


@pytest.mark.parametrize("size", [1, 900])
def test_closing_ends_the_threads_and_starts_no_more_items(size: int) -> None:
    started: list[int] = []
    both, go = threading.Event(), threading.Event()

    def make(item: int) -> int:
        started.append(item)
        if item:
            both.set()
            assert go.wait(DEADLINE)
        return item

    results = many(list(range(50)), make, size_of=lambda item: size if item else 1)
    assert next(results).value == 0
    assert both.wait(DEADLINE)
    closing_ = threading.Thread(target=results.close)
    closing_.start()
    go.set()
    closing_.join(DEADLINE)
    assert not closing_.is_alive()
    assert not decoding_threads()
    assert len(started) <= 9


def test_an_item_that_waits_for_free_bytes_does_not_start_after_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    measured, closed = threading.Semaphore(0), threading.Event()

    class Pool(ThreadPoolExecutor):
        def shutdown(self, *arguments: Any, **more: Any) -> None:
            closed.set()
            super().shutdown(*arguments, **more)

    def measure(item: int) -> int:
        measured.release()
        return 1000 if item else 1

    def make(item: int) -> None:
        started.append(item)
        assert not item or closed.wait(DEADLINE)

    monkeypatch.setattr(parallel, "ThreadPoolExecutor", Pool)
    results = many(range(3), make, size_of=measure, threads=2)
    next(results)
    for _ in range(3):
        assert measured.acquire(timeout=DEADLINE)
    results.close()
    assert len(started) <= 2, "item 0, and the one that had the bytes"
