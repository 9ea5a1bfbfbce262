"""The web server of the tests: the real application, with crashes on demand."""

from __future__ import annotations

from typing import BinaryIO

from tests.chaos import crash

from retllm.media.storage import Storage
from retllm_web.wsgi import app

__all__ = ["app"]

crash.install("change")
_put = Storage.put


def _put_and_crash(storage: Storage, key: str, file: BinaryIO) -> int:
    """Store a file; a crash may be ordered for the moment before a row names it."""
    count = _put(storage, key, file)
    crash.reach("receive")
    return count


Storage.put = _put_and_crash
