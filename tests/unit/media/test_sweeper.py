"""The sweeper continues after an error of the storage."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

from retllm.media.storage import Storage
from retllm.media.sweeper import AGE, Sweeper


def _old(path: Path) -> Path:
    then = time.time() - AGE.total_seconds() - 60
    os.utime(path, (then, then))
    return path


def _wait_until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_the_sweeper_runs_repeatedly_and_survives_an_unavailable_storage(tmp_path: Path) -> None:
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

    sweeper = Sweeper([partial(Watched(f"file://{blocked}").sweep, AGE)], every=0.05)
    sweeper.start()
    assert failed.wait(60)
    blocked.unlink()
    storage = Storage(f"file://{blocked}")
    for round_ in range(2):
        storage.put("tmp/left", io.BytesIO(b"half"))
        storage.put("tmp/under-way", io.BytesIO(b"half"))
        left = _old(blocked / "tmp" / "left")
        assert _wait_until(lambda left=left: not left.exists()), round_
        assert storage.exists("tmp/under-way")
    sweeper.stop()
