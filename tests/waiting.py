"""Waiting for conditions in tests, which never wait for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def wait_until(
    condition: Callable[[], Found], what: str = "the condition did not become true in time", seconds: float = 180
) -> Found:
    """Return the value of a condition as soon as it is true.

    Raises:
        AssertionError: it is not true within so many seconds; ``what`` is the message.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return found
