"""Leave quietly if Ctrl-C comes while the command line is still importing what it needs, which takes some 0.3 s."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130
"""Exit status of a command that was stopped by Ctrl-C."""


def _leave(*_: object) -> None:
    # nothing is begun, and an exception inside of an import may end anywhere
    os._exit(INTERRUPTED)


@contextmanager
def leaving_quietly() -> Iterator[None]:
    """End the process on Ctrl-C without a traceback; outside of the main thread this changes nothing."""
    try:
        before = signal.signal(signal.SIGINT, _leave)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
