"""A client of the REST API for the command line (design: API and command line)."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import httpx

from retllm.errors import NotFound, RetllmError, StackError, Unauthorized
from retllm.settings import Settings
from retllm.stack.client_file import client_path, read_client

Json = dict[str, Any]
OVER = ("succeeded", "partial", "failed", "cancelled")
_POLL_SECONDS = 0.3
# the last part of a large file is answered when the file is whole in the storage
_TIMEOUT = httpx.Timeout(30, read=900, write=900)
_ATTEMPTS = 5
# 503 is also what a proxy says while the server starts
_BUSY = (429, 502, 503, 504)


class RequestRejected(RetllmError):
    """The server rejected the request."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(
            str(error.get("message", "The server rejected the request.")), **dict(error.get("detail") or {})
        )
        self.body: Json = {"error": dict(error)}

    def as_json(self) -> Json:
        """Return the error as the server sent it."""
        return self.body


class Unreachable(StackError):
    """The server can't be reached at the moment, or says that it is busy.

    Attributes:
        reason: the message without the advice for who does not try again.
        retry_after: in how many seconds to try again, if the server says so.
    """

    def __init__(
        self, reason: str, retry_after: float | None = None, body: Json | None = None, advice: str = ""
    ) -> None:
        super().__init__(f"{reason} {advice}".strip())
        self.reason = reason
        self.retry_after = retry_after
        self._body = body

    def as_json(self) -> Json:
        """Return the error as the server sent it, if it did."""
        return self._body or super().as_json()


@dataclass(frozen=True)
class Api:
    """A connection to ``/api/v1`` of one server.

    Attributes:
        home: the folder of what commands on this machine remember; None if they remember nothing.
    """

    http: httpx.Client
    home: Path | None = field(default=None, kw_only=True)

    def call(self, method: str, path: str, **options: Any) -> Json:
        """Send a request and return its JSON answer; ``{}`` if it is empty.

        Raises:
            RequestRejected: the server answered with an error.
            Unreachable: the server can't be reached, or is too busy.
            StackError: it is not a retllm server.
        """
        return _answer(self.send(method, path, **options))

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request and return its answer; otherwise like :meth:`call`.

        Raises:
            Unreachable: the server can't be reached, or is too busy.
        """
        try:
            response = self.http.request(method, path, **options)
        except httpx.TransportError as error:
            raise Unreachable(
                f"The server at {self.http.base_url.copy_with(path='/')} can't be reached ({error}).", advice=_advice()
            ) from error
        if response.status_code in _BUSY:
            raise _busy(response)
        return response

    def get(self, path: str, **query: Any) -> Json:
        """Send a GET request; query values that are None are omitted."""
        return self.call("GET", path, params={name: value for name, value in query.items() if value is not None})

    def download(self, path: str, *, body: Json | None = None, **query: Any) -> Iterator[bytes]:
        """Yield the answer to a GET, or to a POST of ``body``, in chunks; query values that are None are omitted.

        Raises:
            RequestRejected: the server answered with an error.
            Unreachable: the server is too busy.
            StackError: the server can't be reached, the answer is incomplete, or it is not a retllm server.
        """
        params = {name: value for name, value in query.items() if value is not None}
        try:
            with self.http.stream("POST" if body else "GET", path, params=params, json=body) as response:
                if not response.is_success:
                    response.read()
                    if response.status_code in _BUSY:
                        raise _busy(response)
                    _answer(response)
                yield from response.iter_bytes()
        except httpx.TransportError as error:
            raise StackError(
                f"The answer of {self.http.base_url.copy_with(path='/')} is incomplete ({error})."
            ) from error

    def page(self, path: str) -> str:
        """Return the address of a page of the dashboard."""
        return str(self.http.base_url).removesuffix("/").removesuffix("/api/v1") + path

    def submit(self, path: str, **options: Any) -> Json:
        """Send a POST that creates one job: repeat it with the same idempotency key until the server answers."""
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        for left in range(_ATTEMPTS - 1, -1, -1):
            try:
                return self.call("POST", path, headers=headers, **options)
            except StackError:
                if not left:
                    raise
                time.sleep(_POLL_SECONDS)
        raise AssertionError("unreachable")

    def pages(self, path: str, field: str, **query: Any) -> Iterator[Json]:
        """Yield every row of a paged list."""
        after: str | None = None
        while True:
            page = self.get(path, after=after, limit=100, **query)
            yield from page[field]
            after = page.get("next")
            if after is None:
                return

    def collection(self, name: str) -> Json:
        """Return the collection with that name or id.

        Raises:
            NotFound: there is no such collection.
        """
        for row in self.pages("/collections", "collections"):
            if name in (row["id"], row["name"]):
                return row
        what = "with the id" if is_id(name) else "named"
        raise NotFound(f"There is no collection {what} {name}. `retllm collections` lists the collections.")

    def watch(self, job_id: str, show: Callable[[Json], None]) -> Json:
        """Poll the job until it is over and call ``show`` each time; return its last state."""
        while True:
            job = self.get(f"/jobs/{job_id}")
            show(job)
            if job["state"] in OVER:
                return job
            time.sleep(_POLL_SECONDS)


def is_id(name: str) -> bool:
    """Return whether a name has the form of an id, as the server writes it."""
    with suppress(ValueError):
        return str(uuid.UUID(name)) == name.lower()
    return False


def _advice() -> str:
    """Return what to do about a server that can't be reached."""
    if os.environ.get("RETLLM_URL"):
        return "Check that it runs, and that RETLLM_URL names it."
    return "Start one with `retllm up`, or set RETLLM_URL."


def _busy(response: httpx.Response) -> Unreachable:
    after = _seconds(response.headers.get("Retry-After"))
    try:
        body = response.json()
        return Unreachable(str(body["error"]["message"]), after, body)
    except (ValueError, KeyError, TypeError):
        return Unreachable(f"{response.url} answers with status {response.status_code}.", after)


def _seconds(header: str | None) -> float | None:
    return float(header) if header and header.isdecimal() else None


def _answer(response: httpx.Response) -> Json:
    if response.status_code == httpx.codes.NO_CONTENT:
        return {}
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise StackError(f"{response.url} is not a retllm server (status {response.status_code}).")
    if response.is_success:
        return body
    if "error" not in body:
        raise StackError(f"{response.url} is not a retllm server (status {response.status_code}).")
    raise RequestRejected(body["error"])


def connect() -> Api:
    """Connect to the server of ``RETLLM_URL`` and ``RETLLM_TOKEN``, else to that of ``retllm up``.

    Raises:
        StackError: no server is known.
        Unauthorized: there is no token.
    """
    home = Settings().home_path
    local = read_client(home)
    url = os.environ.get("RETLLM_URL") or local.get("url")
    token = os.environ.get("RETLLM_TOKEN") or local.get("token")
    if not url:
        raise StackError(
            f"No server is configured: start one with `retllm up` (it writes {client_path(home)}), "
            "or set RETLLM_URL and RETLLM_TOKEN."
        )
    if not token:
        raise Unauthorized("There is no token: set RETLLM_TOKEN (`retllm token create USER` creates one).")
    return open_api(url, token, home)


def open_api(url: str, token: str, home: Path | None = None) -> Api:
    """Connect to the server at ``url``."""
    headers = {"Authorization": f"Bearer {token}"}
    http = httpx.Client(base_url=url.rstrip("/") + "/api/v1", headers=headers, timeout=_TIMEOUT, trust_env=False)
    return Api(http, home=home)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
