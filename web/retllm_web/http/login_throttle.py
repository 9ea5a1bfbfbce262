"""A limit on wrong tries, by account and by address; counted in Redis by all web processes, in this one without it.

A wrong password counts against the account that was named, whether there is one or not, and against the address; a
wrong token against the address alone. The names of the counters tell neither.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog
from limits import RateLimitItemPerMinute
from limits.errors import StorageError
from limits.storage import MemoryStorage, storage_from_string
from limits.strategies import MovingWindowRateLimiter

from retllm.errors import TooManyTries
from retllm.identity.logins import network_of
from retllm.identity.secret_key import derived

log = structlog.get_logger(__name__)

T = TypeVar("T")

MAX_WRONG = 20
WINDOW_MINUTES = 15
_LIMIT = RateLimitItemPerMinute(MAX_WRONG, WINDOW_MINUTES)
# a Redis that did not answer is not asked again for so long
_PATIENCE_SECONDS = 5.0
_ANSWER_SECONDS = 2.0


@dataclass(frozen=True)
class Source:
    """Whose tries are counted together: those at one account, or those from one address."""

    kind: str
    name: str


def account(name: str) -> Source:
    """Tries at the account of that name, in any case."""
    return Source("account", name.strip().lower())


def address(of: str | None, at: str = "passwords") -> Source:
    """Tries from an address; those at tokens are none at passwords, since a program goes on with one that is over."""
    return Source(f"address, {at}", network_of(of))


class LoginThrottle:
    """The counters. ``secret`` keeps what they count out of their names, and apart from those of other servers."""

    def __init__(self, redis_url: str | None, secret: str) -> None:
        self._key = derived(secret, "names of counters")
        self._here = MovingWindowRateLimiter(MemoryStorage())
        self._shared = _in_redis(redis_url)
        self._ask_again = 0.0

    def wait(self, *sources: Source) -> int:
        """Seconds until the next try is allowed to all of ``sources``; 0 if it is now."""
        return max(self._wait(self._name(source)) for source in sources)

    def demand(self, *sources: Source) -> None:
        """Refuse a try while any of ``sources`` has too many wrong ones behind it.

        Raises:
            TooManyTries: it has; ``detail["retry_after"]`` tells for how many seconds more.
        """
        seconds = self.wait(*sources)
        if seconds:
            minutes = -(-seconds // 60)
            raise TooManyTries(
                f"There were too many wrong tries. Wait {minutes} minute{'s' * (minutes > 1)}, then try again.",
                retry_after=seconds,
            )

    def wrong(self, *sources: Source) -> None:
        """Count a wrong try against each of ``sources``."""
        for source in sources:
            self._count(self._name(source))

    def _count(self, name: str) -> None:
        self._ask(lambda counter: counter.hit(_LIMIT, name))

    def right(self, source: Source) -> None:
        """Forget the wrong tries of ``source``."""
        name = self._name(source)
        self._here.clear(_LIMIT, name)
        self._ask(lambda counter: counter.clear(_LIMIT, name))

    def _wait(self, name: str) -> int:
        stats = self._ask(lambda counter: counter.get_window_stats(_LIMIT, name))
        return 0 if stats.remaining > 0 else max(1, math.ceil(stats.reset_time - time.time()))

    def _name(self, source: Source) -> str:
        return hmac.digest(self._key, f"{source.kind} {source.name}".encode(), hashlib.sha256).hex()

    def _ask(self, deed: Callable[[MovingWindowRateLimiter], T]) -> T:
        """What the shared counters say, or those of this process while Redis does not answer."""
        if self._shared is not None and time.monotonic() >= self._ask_again:
            try:
                return deed(self._shared)
            except StorageError as error:
                self._ask_again = time.monotonic() + _PATIENCE_SECONDS
                log.warning("guesses_counted_here", reason=type(error.storage_error).__name__)
        return deed(self._here)


def _in_redis(url: str | None) -> MovingWindowRateLimiter | None:
    if not url:
        return None
    # a server that hangs must not hold up who logs in
    patience = {"socket_timeout": _ANSWER_SECONDS, "socket_connect_timeout": _ANSWER_SECONDS}
    return MovingWindowRateLimiter(storage_from_string(_storage_url(url), wrap_exceptions=True, **patience))


def _storage_url(url: str) -> str:
    return f"redis+{url}" if url.startswith("unix:") else url
