"""Sweeps what killed uploads left in the storage, now and then."""

from __future__ import annotations

import threading
from datetime import timedelta

import structlog

from retllm.media.storage import Storage

log = structlog.get_logger(__name__)

AGE = timedelta(days=1)
"""No upload takes so long; a file that is half written for longer has nobody who writes it."""
_EVERY_SECONDS = 3600.0


class Sweeper:
    """A thread of its own: a storage that is slow, or does not answer, keeps nobody waiting."""

    def __init__(self, storage: Storage, *, every: float = _EVERY_SECONDS) -> None:
        self._storage = storage
        self._every = every
        self._stop = threading.Event()

    def start(self) -> None:
        """Begin; the first time is now."""
        threading.Thread(target=self._run, name="sweeper", daemon=True).start()

    def stop(self) -> None:
        """Begin no other round. The present one ends with the process: what it leaves, the next one takes."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                gone = self._storage.sweep(AGE)
            except Exception as error:  # noqa: BLE001, RUF100 - each kind of storage has errors of its own
                log.warning("storage.not_swept", reason=str(error).strip().partition("\n")[0] or repr(error))
            else:
                if gone:
                    log.info("storage.swept", files=gone)
            self._stop.wait(self._every)
