"""Requests that cost the server much do not keep it from answering others."""

from __future__ import annotations

import io
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from PIL import Image
from tests.functional.serving import Server, serving
from tests.soak import scaled

from retllm.settings import Settings

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


def costly_picture() -> bytes:
    """A small file of as many pixels as a query may have, which take long to decode."""
    side = int(Settings.model_fields["max_query_pixels"].default ** 0.5)
    picture = Image.new("RGBA", (side, side), (200, 30, 40, 128))
    picture.paste((10, 200, 30, 255), (0, 0, side // 2, side // 3))
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=9)
    return file.getvalue()


def test_health_is_told_while_costly_pictures_are_sent_and_shown(server: Server) -> None:
    content, collection = costly_picture(), server.collection("Costly")
    assert len(content) < 1 << 20

    def send(_: int) -> httpx.Response:
        with server.client() as client:
            return client.post(f"/collections/{collection}/searches", files={"picture": ("query.png", content)})

    with ThreadPoolExecutor(CLIENTS) as threads, health_checks(server) as taken:
        answers = list(threads.map(send, range(CLIENTS)))
    # it is decoded before the collection, which is empty, is looked at
    assert {answer.status_code for answer in answers} == {409, 503}
    assert all(int(answer.headers["Retry-After"]) > 0 for answer in answers if answer.status_code == 503)
    assert max(taken) < SOON


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
