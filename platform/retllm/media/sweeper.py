"""Periodic deletion of what killed processes left: files in the storage, indexes in the database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import timedelta

import structlog

log = structlog.get_logger(__name__)

AGE = timedelta(days=1)
"""No upload takes this long, so an older half-written file has no writer."""
_INTERVAL_SECONDS = 3600.0


class Sweeper:
    """Sweeps in its own thread, so that a slow or unreachable storage or database blocks nothing else.

    Args:
        sweeps: functions that delete something and return how much; one that fails does not stop the others.
    """

    def __init__(self, sweeps: Sequence[Callable[[], int]], *, every: float = _INTERVAL_SECONDS) -> None:
        self._sweeps = sweeps
        self._interval = every
        self._stop = threading.Event()

    def start(self) -> None:
        """Start the thread; the first sweep begins at once."""
        threading.Thread(target=self._run, name="sweeper", daemon=True).start()

    def stop(self) -> None:
        """Start no further sweep. A running sweep ends with the process; the next process deletes the rest."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            for sweep in self._sweeps:
                try:
                    deleted = sweep()
                except Exception as error:  # noqa: BLE001, RUF100 - each kind of storage raises its own errors
                    log.warning("sweep.failed", reason=str(error).strip().partition("\n")[0] or repr(error))
                else:
                    if deleted:
                        log.info("sweep.done", deleted=deleted)
            self._stop.wait(self._interval)
