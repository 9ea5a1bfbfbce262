"""Waits for a server that can't be reached for a while, and goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, TypeVar

from retllm.cli.client import Api, Json, Unreachable
from retllm.errors import RetllmError

PATIENCE = 600.0
"""Seconds that commands wait for a server unless told otherwise."""
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 30.0
_MINUTE = 60.0
NOT_ALL = 1
"""Exit status of a command that did not do all that it was asked for."""
Value = TypeVar("Value")


class GaveUp(RetllmError):
    """The server could not be reached for too long."""

    code = "gave_up"
    http_status = 503
    exit_status = NOT_ALL


@dataclass
class Patience:
    """Repeats what fails because the network or the server is away, for at most ``seconds`` in one go."""

    seconds: float
    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _said: bool = field(default=False, init=False)

    def keep(self, do: Callable[[], Value]) -> Value:
        """Return what ``do`` returns, which may be done again.

        Raises:
            GaveUp: the server was away for too long.
        """
        end: float | None = None
        wait = _FIRST_WAIT
        while True:
            try:
                value = do()
            except Unreachable as error:
                end = self.clock() + self.seconds if end is None else end
                left = end - self.clock()
                if left <= 0:
                    raise GaveUp(f"The server was away for {self._length()}: {error.reason}") from error
                self._note(error)
                self.sleep(min(left, max(wait, error.retry_after or 0)))
                wait = min(2 * wait, _LONGEST_WAIT)
            else:
                if self._said:
                    self.say("The server answers again.")
                    self._said = False
                return value

    def _note(self, error: Unreachable) -> None:
        if not self._said:
            self.say(f"Waiting for the server and trying again, for up to {self._length()}: {error.reason}")
            self._said = True

    def _length(self) -> str:
        minutes, rest = divmod(self.seconds, _MINUTE)
        return f"{self.seconds:g} seconds" if rest or minutes < 2 else f"{minutes:g} minutes"


@dataclass(frozen=True)
class PatientApi(Api):
    """A connection that waits for a server that is away; only for requests that may be repeated."""

    patience: Patience

    def call(self, method: str, path: str, **options: Any) -> Json:
        """Send a request, again and again while the server is away; otherwise like :meth:`Api.call`.

        Raises:
            GaveUp: the server was away for too long.
        """
        return self.patience.keep(partial(super().call, method, path, **options))

    def once(self, method: str, path: str, **options: Any) -> Json:
        """Send a request once."""
        return super().call(method, path, **options)

    def download(self, path: str, *, body: Json | None = None, **query: Any) -> Iterator[bytes]:
        """Yield the answer to a request, repeated while the server is away; otherwise like :meth:`Api.download`.

        Raises:
            GaveUp: the server was away for too long.
        """

        def begun() -> Iterator[bytes]:
            chunks = Api.download(self, path, body=body, **query)
            return chain([next(chunks, b"")], chunks)

        return self.patience.keep(begun)
