"""Pictures that the web server decodes: few at a time, a fair share for each account, and the same one only once.

Each decode runs in a process of its own (``retllm.media.sandbox``), while its request holds no slot of the server. What
came of it is kept for a while, also a failure.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from uuid import UUID

from flask import Flask, current_app

from retllm.errors import Busy, MediaRejected
from retllm.media import sandbox
from retllm_web.http.auth import current_actor
from retllm_web.http.lines import Places
from retllm_web.http.waiting import without_slot

T = TypeVar("T")

WAITING = 16
"""Requests that wait for a decoder, apart from those that have one; at most half of all are of one account."""
_RETRY_SECONDS = 5
# An account that decodes for longer gets decoders that nobody else wants. As many seconds as these are given back in
# ten minutes.
_BUDGET_SECONDS = 60.0
_GIVEN_BACK = _BUDGET_SECONDS / 600
_KEPT_BYTES = 64 << 20
_KEPT_FAILURES = 1000
# a failure may be for want of memory, so it is not for ever
_FAILURE_SECONDS = 600.0
_LINE, _KEPT = "retllm_decoding_line", "retllm_decoded"


def install(app: Flask, decoders: int) -> None:
    """Let ``app`` decode with so many decoders, which leave it the cores that it needs to answer other requests."""
    sandbox.give_way()
    app.extensions[_LINE] = DecodingLine(decoders)
    app.extensions[_KEPT] = Kept()


class DecodingLine:
    """The requests that decode or wait for it; thread-safe."""

    def __init__(self, decoders: int) -> None:
        self._lock = threading.Lock()
        self._decoders = threading.BoundedSemaphore(decoders)
        self._inside = Places(decoders + WAITING)
        # seconds of decoding of an account, and when they were counted
        self._spent: dict[UUID, tuple[float, float]] = {}

    @contextmanager
    def place(self, account: UUID) -> Iterator[None]:
        """Hold a decoder inside the context; the body of the request must have been read before.

        Raises:
            Busy: too many wait already, of this account or of all.
        """
        self._enter(account)
        try:
            with without_slot(), self._decoders:
                began = time.monotonic()
                try:
                    yield
                finally:
                    self._charge(account, time.monotonic() - began)
        finally:
            self._inside.leave(account)

    def _enter(self, account: UUID) -> None:
        with self._lock:
            is_late = self._left(account) <= 0 and self._inside.total() > 0
            if is_late or not self._inside.take(account):
                raise Busy(retry_after=_RETRY_SECONDS)

    def _left(self, account: UUID) -> float:
        spent, at = self._spent.get(account, (0.0, 0.0))
        return _BUDGET_SECONDS - max(0.0, spent - (time.monotonic() - at) * _GIVEN_BACK)

    def _charge(self, account: UUID, seconds: float) -> None:
        with self._lock:
            self._spent[account] = (_BUDGET_SECONDS - self._left(account) + seconds, time.monotonic())
            for other in [other for other in self._spent if self._left(other) >= _BUDGET_SECONDS]:
                del self._spent[other]


class Kept:
    """Renditions that were made lately, and why others could not be made; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0
        self._failed: OrderedDict[str, tuple[float, MediaRejected]] = OrderedDict()

    def get(self, key: str) -> bytes | None:
        """Return what was made of the picture; None if that is not known.

        Raises:
            MediaRejected: it can't be decoded.
        """
        with self._lock:
            until, error = self._failed.get(key, (0.0, None))
            if error is not None and time.monotonic() < until:
                raise MediaRejected(error.message, **error.detail)
            made = self._made.get(key)
            if made is not None:
                self._made.move_to_end(key)
            return made

    def keep(self, key: str, made: bytes) -> None:
        """Keep what was made of a picture."""
        with self._lock:
            self._bytes += len(made) - len(self._made.pop(key, b""))
            self._made[key] = made
            while self._bytes > _KEPT_BYTES:
                self._bytes -= len(self._made.popitem(last=False)[1])

    def fail(self, key: str, error: MediaRejected) -> None:
        """Keep why a picture could not be decoded."""
        with self._lock:
            self._failed[key] = (time.monotonic() + _FAILURE_SECONDS, error)
            while len(self._failed) > _KEPT_FAILURES:
                self._failed.popitem(last=False)


def rendered(key: str, make: Callable[[], bytes]) -> bytes:
    """Return what ``make`` makes of a picture by decoding it, or made of it lately; ``key`` identifies that.

    Raises:
        Busy: too many wait for a decoder.
        MediaRejected: the picture can't be decoded.
    """
    kept = _kept()
    made = kept.get(key)
    if made is None:
        # another request may have made it meanwhile
        made = decoded(key, lambda: kept.get(key) or make())
        kept.keep(key, made)
    return made


def decoded(key: str, make: Callable[[], T]) -> T:
    """Return the result of ``make``, which decodes a picture; ``key`` identifies it, so that a failure is kept.

    Raises:
        Busy: too many wait for a decoder.
        MediaRejected: the picture can't be decoded.
    """
    line: DecodingLine = current_app.extensions[_LINE]
    kept = _kept()
    kept.get(key)
    with line.place(current_actor().paying_id):
        try:
            return make()
        except MediaRejected as error:
            kept.fail(key, error)
            raise


def _kept() -> Kept:
    found: Kept = current_app.extensions[_KEPT]
    return found
