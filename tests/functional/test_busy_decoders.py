"""Requests that wait for a decoder do not keep the server from serving others."""

from __future__ import annotations

import io
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import psutil
import pytest
from PIL import Image
from tests.functional.serving import THREADS, Server, serving


@pytest.fixture(scope="module")
def server(database_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with one decoder, which may take longer than any test."""
    home = tmp_path_factory.mktemp("decoding")
    with serving(database_url, redis_url, home, decoders=1, decode_seconds=600) as running:
        yield running


def _search(server: Server, collection: str) -> httpx.Response:
    """Search by a picture: it is decoded before the collection, which is empty, is looked at."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(file, "PNG")
    with server.client() as client:
        return client.post(f"/collections/{collection}/searches", files={"picture": ("query.png", file.getvalue())})


@contextmanager
def _stopped_decoders(server: Server) -> Iterator[None]:
    web = psutil.Process(server.process.pid).children(recursive=True)
    decoders = [process for process in web if any("decoder.py" in part for part in process.cmdline())]
    assert len(decoders) == 1
    for process in decoders:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in decoders:
            process.send_signal(signal.SIGCONT)


def test_other_requests_are_served_while_more_than_all_threads_wait_for_a_decoder(server: Server) -> None:
    collection = server.collection("Busy")
    assert _search(server, collection).status_code == 409
    with ThreadPoolExecutor(2 * THREADS) as threads:
        with _stopped_decoders(server):
            searches = [threads.submit(_search, server, collection) for _ in range(2 * THREADS)]
            # one that is not served would block this one
            for _ in range(2 * THREADS):
                assert httpx.get(f"{server.address}/readyz", timeout=120).status_code == 200
            assert sum(not search.done() for search in searches) >= THREADS
        answers = [search.result() for search in searches]
        # as many as may wait of one account, and those that came too late
        assert {answer.status_code for answer in answers} == {409, 503}
        assert all(int(answer.headers["Retry-After"]) > 0 for answer in answers if answer.status_code == 503)
