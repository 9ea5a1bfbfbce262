"""Requests to the server of a remote scorer: time limits, retries, and what each kind of failure means."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, cast

import httpx
import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_before_delay, wait_random_exponential

from retllm.errors import ModelUnavailable, ServerAway, ServerBusy, ServerFailed
from retllm.fine.remote.deadline import Deadline, sent_more
from retllm.fine.remote.failures import failure_of
from retllm.fine.written import quoted
from retllm.redaction import HIDDEN, hide_known, redact, remember
from retllm.scorer_address import ScorerAddress

log = structlog.get_logger(__name__)

#: a request is repeated within this time; after it the unit waits, without a worker
_RETRY_SECONDS = 5.0
_CONNECT_SECONDS = 5.0
#: an answer of one token with its log-probabilities has a few KiB, the list of a server's models at most some hundred
_MOST_BYTES = 4 << 20
_QUOTED = 200
#: characters that are read of an error
_READ = 10_000
#: characters of a key that is no part of words
_LONG = 8
_BUSY = frozenset({429, 502, 503, 504})
#: the model or the endpoint is not there, or not for us: the same for every pair
_NOT_SERVED = frozenset({301, 302, 303, 307, 308, 401, 402, 403, 404, 405, 501})


class Refused(Exception):
    """The server refused one request; the message is its own, for people."""


class NoAnswer(ServerAway):
    """One request got no answer: the server is away, unless it answers others; ``reason`` is what happened."""

    def __init__(self, name: str, reason: str, seconds: float = 0, remedy: str = "") -> None:
        super().__init__(f"The server of the scorer {name} is away: {reason}.", seconds, remedy)
        self.reason = reason


class _Passing(Exception):
    """A failure that may be over after a moment; ``seconds`` is how long the server asks to wait.

    ``status`` is that of the answer; 0 without one. ``remedy``: what to do about it.
    """

    def __init__(
        self, reason: str, status: int = 0, seconds: float = 0, *, busy: bool = True, remedy: str = ""
    ) -> None:
        super().__init__(reason)
        self.remedy = remedy
        self.status = status
        self.seconds = seconds
        self.busy = busy


_backoff = wait_random_exponential(multiplier=0.25, max=2)


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    return max(_backoff(state), error.seconds if isinstance(error, _Passing) else 0)


class Client:
    """A connection pool to one server; may be used from several threads.

    Args:
        address: of the scorer.
        key: sent as bearer token; None sends none.
        requests: maximum number of connections.
        seconds: time limit of one request, from its begin to the end of the answer.
    """

    def __init__(self, address: ScorerAddress, key: str | None, requests: int, seconds: float) -> None:
        self.name = address.name
        self._seconds = seconds
        remember(key)
        self._key = _pattern(key)
        self._deadline = Deadline()
        try:
            self._http = httpx.Client(
                # a compressed answer could become larger than any limit when it is unpacked
                headers={"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {}),
                timeout=httpx.Timeout(seconds, connect=min(seconds, _CONNECT_SECONDS)),
                limits=httpx.Limits(max_connections=requests),
            )
        except (ImportError, ValueError, OSError) as error:
            # the message may have a proxy's password
            log.warning("scorer.no_client", reason=str(error))
            raise ModelUnavailable(
                f"No connection to the server of the scorer {self.name} can be made: {type(error).__name__}. Correct "
                "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE or SSL_CERT_DIR.",
                model=self.name,
            ) from error
        self._deadline.guard(self._http)

    def post(self, url: str, body: dict[str, Any]) -> Any:
        """Send a JSON object and return the answer.

        Raises:
            Refused: the server does not accept this request.
            ModelUnavailable: it does not accept any: the key is wrong, or there is no such model or endpoint.
            NoAnswer: it does not answer. ServerBusy: it takes no more requests for now.
            ServerFailed: it answers with an error of its own, or with something that is no JSON.
        """
        return self._repeated("POST", url, body)

    def get(self, url: str) -> Any | None:
        """Return the answer to a GET; None if the server has nothing there. Raises the errors of :meth:`post`."""
        return self._repeated("GET", url, None)

    def redacted(self, text: str) -> str:
        """Return what the server says, for people, without the key and other secrets."""
        return redact(self._key.sub(HIDDEN, text))

    def _repeated(self, method: str, url: str, body: dict[str, Any] | None) -> Any:
        retrying = Retrying(
            retry=retry_if_exception_type(_Passing),
            stop=stop_before_delay(_RETRY_SECONDS),
            wait=_wait,
            reraise=True,
        )
        try:
            return retrying(self._once, method, url, body)
        except _Passing as error:
            log.warning("scorer.server_fails", url=url, reason=str(error))
            if error.status == 429:
                message = f"The server of the scorer {self.name} takes no more requests for now (429)."
                raise ServerBusy(message, error.seconds) from error
            if error.busy:
                raise NoAnswer(self.name, str(error), error.seconds, error.remedy) from error
            raise ServerFailed(f"The server of the scorer {self.name} fails: {error}.") from error

    def _once(self, method: str, url: str, body: dict[str, Any] | None) -> Any:
        try:
            status, headers, content = self._exchange(method, url, body)
        except httpx.TimeoutException as error:
            # not repeated: a server that is slow does not become faster by more requests
            reason = f"it did not answer within {self._seconds:g} s"
            remedy = "Lower RETLLM_SCORER_REQUESTS or raise RETLLM_SCORER_SECONDS, if the server works"
            if isinstance(error, httpx.ConnectTimeout):
                failure = failure_of(error)
                reason, remedy = f"{failure.reason} within {min(self._seconds, _CONNECT_SECONDS):g} s", failure.remedy
            raise NoAnswer(self.name, reason, remedy=remedy) from error
        except httpx.TransportError as error:
            # the reason may contain the address, which is for administrators
            log.warning("scorer.no_answer", url=url, reason=str(error))
            failure = failure_of(error)
            raise _Passing(failure.reason, remedy=failure.remedy) from error
        return self._read(method, status, headers, content)

    def _exchange(self, method: str, url: str, body: dict[str, Any] | None) -> tuple[int, httpx.Headers, bytes]:
        content = bytearray()
        with self._deadline.within(self._seconds), self._http.stream(method, url, json=body) as response:
            # not iter_raw(), at whose end another request may use the connection
            for chunk in cast("httpx.SyncByteStream", response.stream):
                content += chunk
                if len(content) > _MOST_BYTES:
                    raise ServerFailed(f"The server of the scorer {self.name} sent an endless answer.")
            if sent_more(self._http, response):
                raise ServerFailed(f"The server of the scorer {self.name} sent more than one answer to a request.")
        return response.status_code, response.headers, bytes(content)

    def _read(self, method: str, status: int, headers: httpx.Headers, content: bytes) -> Any:
        if status in _BUSY:
            raise _Passing(f"it answers {status}", status, _retry_after(headers.get("retry-after", "")))
        if status >= 500 and status not in _NOT_SERVED:
            raise _Passing(f"it answers {status} ({self._message(content)})", status, busy=False)
        if method == "GET" and status == 404:
            return None
        if status in _NOT_SERVED:
            raise ModelUnavailable(self._not_served(status, content), model=self.name)
        if status >= 400:
            raise Refused(self._message(content))
        if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise ServerFailed(f"The server of the scorer {self.name} sent a compressed answer, unasked.")
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ServerFailed(
                f"The server of the scorer {self.name} answered something that is no JSON: check its address."
            ) from error

    def _not_served(self, status: int, content: bytes) -> str:
        if status in (401, 402, 403):
            return (
                f"The server of the scorer {self.name} refuses the key ({status}): set RETLLM_SCORER_KEY, or its key "
                "in RETLLM_EXTRA_SCORERS."
            )
        return (
            f"The server of the scorer {self.name} does not serve that model at this address ({status}, "
            f"{self._message(content)}): check its address."
        )

    def _message(self, content: bytes) -> str:
        """Return the message in the body of an error, on one line and shortened, without the key."""
        # before anything is cut, which could leave a part of the key
        text = hide_known(self._key.sub(HIDDEN, content.decode("utf-8", "replace")))[:_READ]
        found: Any = text
        with suppress(ValueError, RecursionError):
            found = json.loads(text)
        while isinstance(found, dict):
            found = next((found[name] for name in ("error", "message", "detail") if found.get(name)), text)
        return quoted(self.redacted(str(found)), _QUOTED)


def _pattern(key: str | None) -> re.Pattern[str]:
    """Return what a key looks like in a text: a short one stands alone, since it may be a part of words."""
    if not key:
        return re.compile(r"(?!)")
    return re.compile(re.escape(key) if len(key) >= _LONG else rf"(?<![\w-]){re.escape(key)}(?![\w-])")


def _retry_after(value: str) -> float:
    """Return the seconds of a header ``Retry-After``, which has a number or a date; 0 if it has neither."""
    try:
        return max(0.0, min(float(value), 3600.0))
    except ValueError:
        pass
    try:
        return max(0.0, min((parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds(), 3600.0))
    except (ValueError, TypeError):
        return 0.0
