"""Pictures are decoded side by side, in order, within their bytes, and each has an outcome of its own."""

from __future__ import annotations

import threading
from contextlib import closing
from functools import partial

import pytest

from retllm.errors import MediaRejected
from retllm.media.parallel import in_parallel

# so long no machine is busy; a wait that takes it has failed
DEADLINE = 60


def size_of(item: int) -> int:
    return item


many = partial(in_parallel, size_of=size_of, threads=4, max_bytes=1000, ahead=8)


class Watch:
    """What is at work, and the most that ever was."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.items: list[int] = []
        self.most_bytes = 0
        self.company: dict[int, int] = {}

    def make(self, item: int) -> int:
        with self._lock:
            self.items.append(item)
            self.most_bytes = max(self.most_bytes, sum(self.items))
            for one in self.items:
                self.company[one] = max(self.company.get(one, 0), len(self.items))
        threading.Event().wait(0.002)
        with self._lock:
            self.items.remove(item)
        return -item


def decoding_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_several_are_at_work_at_once() -> None:
    barrier = threading.Barrier(4, timeout=DEADLINE)

    def make(item: int) -> int:
        barrier.wait()
        return item

    assert [result.value for result in many(list(range(8)), make)] == list(range(8))


def test_results_come_in_the_order_of_the_items_whichever_is_ready_first() -> None:
    second = threading.Event()

    def make(item: int) -> int:
        if item == 0:
            assert second.wait(DEADLINE)
        if item == 1:
            second.set()
        return item * 10

    assert [result.value for result in many(list(range(20)), make)] == [item * 10 for item in range(20)]


def test_the_bytes_at_work_stay_within_the_bound_and_what_is_larger_runs_alone() -> None:
    watch = Watch()
    sizes = [400 + at for at in range(20)]
    huge = [5000, 3000]
    items = [*sizes[:7], huge[0], *sizes[7:12], huge[1], *sizes[12:]]
    results = [result.value for result in many(items, watch.make)]
    assert results == [-item for item in items]
    assert {watch.company[item] for item in huge} == {1}
    assert all(company <= 2 for company in watch.company.values())
    assert watch.most_bytes == max(huge)


def test_one_that_fails_does_not_touch_the_others() -> None:
    def make(item: int) -> int:
        if item == 3:
            raise MediaRejected("The picture is damaged.")
        return item

    results = list(many(list(range(9)), make))
    assert [result.value for result in results] == [0, 1, 2, None, 4, 5, 6, 7, 8]
    assert [type(result.error) for result in results if result.error] == [MediaRejected]


def test_no_more_is_begun_ahead_than_is_allowed() -> None:
    begun: list[int] = []
    with closing(many(list(range(100)), begun.append, size_of=lambda _: 1, ahead=6)) as results:
        for taken in range(1, 10):
            next(results)
            # one more may be begun by the time that the next is asked for
            assert len(begun) <= taken + 6
    assert len(begun) <= 16


@pytest.mark.parametrize("size", [1, 900])
def test_closing_ends_the_threads_and_begins_nothing_more(size: int) -> None:
    begun: list[int] = []
    both, go = threading.Event(), threading.Event()

    def make(item: int) -> int:
        begun.append(item)
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
    assert len(begun) <= 9
