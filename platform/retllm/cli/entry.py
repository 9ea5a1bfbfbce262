"""The entry point of the program ``retllm``, which imports nothing large itself."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130
"""Exit status of a command that was stopped by Ctrl-C."""


def main() -> None:
    """Run the command line; see :func:`retllm.cli.main.main`."""
    with importing():
        from retllm.cli.main import main as run
    run()


@contextmanager
def importing() -> Iterator[None]:
    """End the process quietly if Ctrl-C is pressed now, where a library may turn it into any other error."""
    before = signal.getsignal(signal.SIGINT)
    # whoever handles or ignores the signal already goes on with that, and only the main thread may change it
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
