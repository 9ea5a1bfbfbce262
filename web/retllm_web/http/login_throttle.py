"""A limit on failed log-ins, per account and per network; counted in Redis, or in this process while it is unavailable.

A wrong password counts against the named account, existing or not, against the address, and against the network around
it, of which one client may have all addresses; a wrong token only against address and network. In a browser that the
account logged in with before, and in a live session, it counts against these alone. The names of the counters reveal
neither account nor address.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

import structlog
from limits import RateLimitItemPerMinute
from limits.errors import StorageError
from limits.storage import MemoryStorage, storage_from_string
from limits.strategies import MovingWindowRateLimiter

from retllm.errors import TooManyTries
from retllm.identity import names
from retllm.identity.logins import network_of, wide_network_of
from retllm.identity.secret_key import derived

log = structlog.get_logger(__name__)

T = TypeVar("T")

MAX_WRONG = 20
MAX_WRONG_IN_NETWORK = 200
"""Of a network around an address, in which others may be too."""
WINDOW_MINUTES = 15
# after an error, do not ask Redis for so long
_RETRY_SECONDS = 5.0
_TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True)
class Source:
    """A counter's subject: an account, an address, a network, a browser or a session; and how many failures it has."""

    kind: str
    name: str
    most: int = MAX_WRONG

    @property
    def limit(self) -> RateLimitItemPerMinute:
        """The number of failures, and their time."""
        return RateLimitItemPerMinute(self.most, WINDOW_MINUTES)


def account(name: str) -> Source:
    """Return the source for an account's name, ignoring case."""
    return Source("account", names.same(name.strip()))


def addresses(of: str | None, at: str = "passwords") -> tuple[Source, Source]:
    """Return the sources for an address; wrong tokens count apart, since programs may repeat an old one for long."""
    return (
        Source(f"address, {at}", network_of(of)),
        Source(f"network, {at}", wide_network_of(of), MAX_WRONG_IN_NETWORK),
    )


def browser(key: str) -> Source:
    """Return the source for a browser that the account logged in with before."""
    return Source("browser", key)


def session(key: UUID) -> Source:
    """Return the source for a live session."""
    return Source("session", str(key))


class LoginThrottle:
    """The counters. ``secret`` is the key of the digests in their names, so that no two servers share counters."""

    def __init__(self, redis_url: str | None, secret: str) -> None:
        self._key = derived(secret, "names of counters")
        self._local = MovingWindowRateLimiter(MemoryStorage())
        self._shared = _in_redis(redis_url)
        self._retry_at = 0.0

    def wait(self, *sources: Source) -> int:
        """Return the seconds until the next attempt is allowed for all of ``sources``; 0 if now."""
        return max(self._wait(source) for source in sources)

    def check(self, *sources: Source) -> None:
        """Reject an attempt while any of ``sources`` has too many failures.

        Raises:
            TooManyTries: there were too many; ``detail["retry_after"]`` is the remaining time in seconds.
        """
        seconds = self.wait(*sources)
        if seconds:
            minutes = -(-seconds // 60)
            raise TooManyTries(
                f"Too many failed attempts. Try again in {minutes} minute{'s' * (minutes > 1)}.",
                retry_after=seconds,
            )

    def count_failure(self, *sources: Source) -> None:
        """Count a failure against each of ``sources``."""
        for source in sources:
            self._count(source)

    def _count(self, source: Source) -> None:
        self._with_counters(lambda counter: counter.hit(source.limit, self._name(source)))

    def reset(self, source: Source) -> None:
        """Reset the failures of ``source``."""
        name = self._name(source)
        self._local.clear(source.limit, name)
        self._with_counters(lambda counter: counter.clear(source.limit, name))

    def _wait(self, source: Source) -> int:
        stats = self._with_counters(lambda counter: counter.get_window_stats(source.limit, self._name(source)))
        return 0 if stats.remaining > 0 else max(1, math.ceil(stats.reset_time - time.time()))

    def _name(self, source: Source) -> str:
        return hmac.digest(self._key, f"{source.kind} {source.name}".encode(), hashlib.sha256).hex()

    def _with_counters(self, operation: Callable[[MovingWindowRateLimiter], T]) -> T:
        """Apply ``operation`` to the shared counters, or to those of this process while Redis does not answer."""
        if self._shared is not None and time.monotonic() >= self._retry_at:
            try:
                return operation(self._shared)
            except StorageError as error:
                self._retry_at = time.monotonic() + _RETRY_SECONDS
                log.warning("guesses_counted_here", reason=type(error.storage_error).__name__)
        return operation(self._local)


def _in_redis(url: str | None) -> MovingWindowRateLimiter | None:
    if not url:
        return None
    # a hanging Redis must not block log-ins
    timeouts = {"socket_timeout": _TIMEOUT_SECONDS, "socket_connect_timeout": _TIMEOUT_SECONDS}
    return MovingWindowRateLimiter(storage_from_string(_storage_url(url), wrap_exceptions=True, **timeouts))


def _storage_url(url: str) -> str:
    return f"redis+{url}" if url.startswith("unix:") else url
