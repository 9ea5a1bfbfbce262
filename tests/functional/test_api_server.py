"""The app in its real server: threads, sockets, streamed uploads."""

from __future__ import annotations

import io
import os
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.functional.serving import THREADS, Server, serving

MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def server(database_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that accepts requests of up to 256 MiB."""
    home = tmp_path_factory.mktemp("server")
    with serving(database_url, redis_url, home, max_request_bytes=256 * MEBIBYTE) as running:
        yield running


@pytest.mark.parametrize(
    "sent",
    [
        {"X-Forwarded-Proto": "https"},
        {"X-Forwarded-Protocol": "ssl"},
        {"X-Forwarded-Ssl": "on", "X-Forwarded-Proto": "http"},
        {"SCRIPT_NAME": "/elsewhere"},
        {"Script-Name": "/healthz"},
        {"PATH_INFO": "/metrics"},
        {"X-Forwarded-Host": "elsewhere.example", "Forwarded": "proto=https;host=elsewhere.example"},
    ],
    ids=str,
)
def test_what_a_client_says_of_a_proxy_counts_for_nothing_without_one(server: Server, sent: dict[str, str]) -> None:
    """Gunicorn itself believes clients of its own machine."""
    answer = httpx.get(f"{server.address}/account", headers=sent)
    assert answer.status_code == 302
    assert answer.headers["Location"] == "/login?next=/account"
    assert "Strict-Transport-Security" not in answer.headers


def test_concurrent_requests_for_one_name_create_one_collection(server: Server) -> None:
    with server.client() as client, ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(lambda _: client.post("/collections", json={"name": "Race"}), range(24)))
    assert Counter(answer.status_code for answer in answers) == {201: 1, 409: 23}


def test_concurrent_requests_with_one_idempotency_key_create_one_job(server: Server) -> None:
    with server.client() as client, ThreadPoolExecutor(THREADS) as pool:
        key = server.collection("Keys")
        client.post(f"/collections/{key}/items?index=false", json={"items": [{"text": "a robin"}]})
        answers = list(
            pool.map(
                lambda _: client.post(f"/collections/{key}/index", headers={"Idempotency-Key": "at-once"}), range(24)
            )
        )
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert len(client.get("/jobs", params={"collection": key}).json()["jobs"]) == 1


def wait_for_outcomes(client: httpx.Client, upload: str) -> list[dict[str, Any]]:
    """Return the files of an upload with their outcomes; not every request may wait for them."""
    deadline = time.monotonic() + 300
    while not (state := client.get(f"/uploads/{upload}").json())["processed"]:
        assert time.monotonic() < deadline, state
        time.sleep(0.05)
    files: list[dict[str, Any]] = client.get(f"/uploads/{upload}/files").json()["files"]
    return files


def test_concurrent_uploads_of_one_file_create_one_item(server: Server) -> None:
    with server.client() as client, ThreadPoolExecutor(THREADS) as pool:
        key = server.collection("Files")
        answers = list(
            pool.map(
                lambda _: client.post(f"/collections/{key}/items", files={"file": ("a.txt", b"a robin")}), range(16)
            )
        )
        jobs = [answer.json()["job_id"] for answer in answers]
        uploads = [wait_for_outcomes(client, job) for job in jobs]
        statuses = Counter(file["status"] for upload in uploads for file in upload)
        assert statuses == {"added": 1, "duplicate": 15}
        assert client.get(f"/collections/{key}").json()["items_total"] == 1


def test_a_large_upload_is_streamed_and_not_held_in_memory(server: Server, tmp_path: Path) -> None:
    packed = tmp_path / "large.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("robin.txt", "a robin")
        archive.writestr("noise.bin", os.urandom(200 * MEBIBYTE))
    with server.client() as client:
        key = server.collection("Large")
        client.post(f"/collections/{key}/items", files={"file": ("warm.txt", b"a wren")})
        before = server.memory()
        peak = before
        with ThreadPoolExecutor(1) as pool, packed.open("rb") as file:
            sent = pool.submit(client.post, f"/collections/{key}/items", files={"file": ("large.zip", file)})
            while not sent.done():
                peak = max(peak, server.memory())
                time.sleep(0.02)
            answer = sent.result()
    assert answer.status_code == 200, answer.text
    assert answer.json()["added"] == 1
    assert peak - before < 100 * MEBIBYTE


def test_a_request_above_the_size_limit_is_rejected_and_stores_nothing(server: Server) -> None:
    with server.client() as client:
        key = server.collection("Beyond")
        body = io.BytesIO(bytes(257 * MEBIBYTE))
        try:
            answer = client.post(f"/collections/{key}/items", files={"file": ("zeros.bin", body)})
        except (httpx.WriteError, httpx.ReadError):
            # the server may close the connection before the whole body was sent; nothing must be stored
            pass
        else:
            assert answer.status_code == 413
            assert answer.json()["error"]["code"] == "too_large"
        assert client.get(f"/collections/{key}").json()["items_total"] == 0


def test_chunked_uploads_without_a_length_work(server: Server) -> None:
    boundary = "xyz"

    def parts() -> Iterator[bytes]:
        yield f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'.encode()
        yield b"a robin"
        yield f"\r\n--{boundary}--\r\n".encode()

    with server.client() as client:
        key = server.collection("Chunked")
        answer = client.post(
            f"/collections/{key}/items",
            content=parts(),
            headers={"Content-Type": f"multipart/form-data; boundary={boundary}"},
        )
    assert answer.json()["added"] == 1
