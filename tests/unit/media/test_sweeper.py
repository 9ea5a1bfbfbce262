"""Sweeping goes on whatever the storage does."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from retllm.media.storage import Storage
from retllm.media.sweeper import AGE, Sweeper


def _old(path: Path) -> Path:
    then = time.time() - AGE.total_seconds() - 60
    os.utime(path, (then, then))
    return path


def _soon(true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    return true()


def test_it_sweeps_at_once_and_again_and_survives_a_storage_that_is_away(tmp_path: Path) -> None:
    blocked = tmp_path / "media"
    blocked.write_text("a file where the folder should be")
    failed = threading.Event()

    class Watched(Storage):
        def sweep(self, age: timedelta) -> int:
            try:
                return super().sweep(age)
            except Exception:
                failed.set()
                raise

    sweeper = Sweeper(Watched(f"file://{blocked}"), every=0.05)
    sweeper.start()
    assert failed.wait(60)
    blocked.unlink()
    storage = Storage(f"file://{blocked}")
    for round_ in range(2):
        storage.put("tmp/left", io.BytesIO(b"half"))
        storage.put("tmp/under-way", io.BytesIO(b"half"))
        left = _old(blocked / "tmp" / "left")
        assert _soon(lambda left=left: not left.exists()), round_
        assert storage.exists("tmp/under-way")
    sweeper.stop()
