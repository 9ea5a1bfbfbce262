"""Requests that cost the server much do not keep it from answering others."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from tests.functional.serving import Server, serving
from tests.soak import scaled

# far more than may wait, and than there are threads
CLIENTS = 48
# what takes tens of seconds if it has to wait for all that is costly
SOON = 10.0
DEADLINE = 180


@pytest.fixture(scope="module")
def server(database_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server as it is by default."""
    with serving(database_url, redis_url, tmp_path_factory.mktemp("costly")) as running:
        yield running


@contextmanager
def health_checks(server: Server) -> Iterator[list[float]]:
    """Ask for the server's health all the time; yield how long each answer took, in seconds."""
    over, taken = threading.Event(), list[float]()

    def ask() -> None:
        while True:
            for path in ("/healthz", "/readyz"):
                began = time.monotonic()
                assert httpx.get(f"{server.address}{path}", timeout=DEADLINE, verify=False).status_code == 200
                taken.append(time.monotonic() - began)
            if over.wait(0.1):
                return

    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(ask)
        try:
            yield taken
        finally:
            over.set()
            asking.result()


def _log_in(server: Server, number: int) -> httpx.Response:
    """Try a password from an address of one's own."""
    address = f"127.{number % 50}.7.{number // 50 + 1}"
    with httpx.Client(
        base_url=server.address, transport=httpx.HTTPTransport(verify=False, local_address=address), timeout=DEADLINE
    ) as client:
        page = client.get("/login").text
        token = page.partition('name="csrf_token" value="')[2].partition('"')[0]
        assert token
        return client.post("/login", data={"name": "somebody", "password": f"wrong {number}", "csrf_token": token})


def test_health_is_told_while_many_passwords_are_tried_at_once(server: Server) -> None:
    with ThreadPoolExecutor(CLIENTS) as threads, health_checks(server) as taken:
        answers = list(threads.map(lambda number: _log_in(server, number), range(scaled(CLIENTS, 500))))
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses.keys() <= {401, 429, 503}
    assert statuses[401] <= 20 + 3
    for answer in answers:
        assert answer.status_code == 401 or int(answer.headers["Retry-After"]) > 0
    assert max(taken) < SOON
