"""The priority of a worker among the processes of its machine."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

_NICE = 5
_ATTEMPTS = 20
_PAUSE_SECONDS = 0.05


def give_way(process: int = 0) -> None:
    """Let web server, dispatcher and database go before a process when the cores are busy.

    A request needs some milliseconds, a unit seconds, and a worker that starts again has much to load. Workers, and the
    decoders that they start, then get a third of the time of a process that goes first, and all of it when nobody else
    wants it. A priority that was set from outside stays.

    Args:
        process: the id of a process that has just started; 0 is this one.
    """
    if not hasattr(os, "getpriority"):
        return
    # a process that has ended needs nothing
    with suppress(OSError):
        if os.getpriority(os.PRIO_PROCESS, process) != 0:
            return
        os.setpriority(os.PRIO_PROCESS, process, _NICE)
        # where Linux schedules sessions instead of processes, that of the session counts; it may be changed if the
        # process leads it, since only the processes that it starts are in it, too
        if os.getsid(process) == (process or os.getpid()):
            _write(Path(f"/proc/{process or 'self'}/autogroup"), str(_NICE))


def _write(file: Path, value: str) -> None:
    """Write a value that Linux lets accounts without privileges change ten times a second, all together."""
    for _ in range(_ATTEMPTS):
        try:
            file.write_text(value)
        except BlockingIOError:
            time.sleep(_PAUSE_SECONDS)
        else:
            return
