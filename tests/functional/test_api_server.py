"""The app under its real server: threads, sockets, uploads that are streamed."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from retllm import accounts, tokens
from retllm.db.session import make_sessions, transaction
from retllm.db.tables import new_id
from retllm.settings import Settings

MEBIBYTE = 1 << 20
THREADS = 8


@dataclass
class Server:
    """A running server and a token for it."""

    address: str
    token: str
    process: subprocess.Popen[bytes]

    def client(self) -> httpx.Client:
        return httpx.Client(
            base_url=f"{self.address}/api/v1", headers={"Authorization": f"Bearer {self.token}"}, timeout=60
        )

    def memory(self) -> int:
        """Bytes of all its processes."""
        whole = psutil.Process(self.process.pid)
        return sum(one.memory_info().rss for one in (whole, *whole.children(recursive=True)))


@pytest.fixture(scope="module")
def server(database_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """gunicorn with threads, as the Procfile starts it."""
    home = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sessions = make_sessions(database_url)
    with transaction(sessions) as session:
        user = accounts.create_user(session, f"server-{new_id()}", "a long password")
        _, token = tokens.issue(session, tokens.token_key(Settings(home=home)), user, "server")
    environment = {
        **os.environ,
        "RETLLM_HOME": str(home),
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "RETLLM_MAX_REQUEST_BYTES": str(256 * MEBIBYTE),
    }
    command = [sys.executable, "-m", "gunicorn", "retllm_web.wsgi:app", "--worker-class", "gthread"]
    command += ["--threads", str(THREADS), "--bind", f"127.0.0.1:{port}", "--no-control-socket"]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=home)
    try:
        _wait(f"http://127.0.0.1:{port}/readyz", process, home / "log")
        yield Server(f"http://127.0.0.1:{port}", token, process)
    finally:
        process.terminate()
        process.wait(30)


def _wait(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            if httpx.get(address).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    pytest.fail(f"not ready: {log.read_text()}")


def _collection(client: httpx.Client, name: str) -> str:
    answer = client.post("/collections", json={"name": name})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def test_the_same_name_asked_for_at_once_is_made_once(server: Server) -> None:
    with server.client() as client, ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(lambda _: client.post("/collections", json={"name": "Race"}), range(24)))
    assert Counter(answer.status_code for answer in answers) == {201: 1, 409: 23}


def test_the_same_key_sent_at_once_makes_one_job(server: Server) -> None:
    with server.client() as client, ThreadPoolExecutor(THREADS) as pool:
        key = _collection(client, "Keys")
        client.post(f"/collections/{key}/items?index=false", json={"items": [{"text": "a robin"}]})
        answers = list(
            pool.map(
                lambda _: client.post(f"/collections/{key}/index", headers={"Idempotency-Key": "at-once"}), range(24)
            )
        )
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert len(client.get("/jobs", params={"collection": key}).json()["jobs"]) == 1


def test_the_same_file_sent_at_once_is_one_item(server: Server) -> None:
    with server.client() as client, ThreadPoolExecutor(THREADS) as pool:
        key = _collection(client, "Files")
        answers = list(
            pool.map(
                lambda _: client.post(f"/collections/{key}/items", files={"file": ("a.txt", b"a robin")}), range(16)
            )
        )
        statuses = Counter(one["status"] for answer in answers for one in answer.json()["outcomes"])
        assert statuses == {"added": 1, "duplicate": 15}
        assert client.get(f"/collections/{key}").json()["items_total"] == 1


def test_a_large_upload_is_streamed_and_not_held_in_memory(server: Server, tmp_path: Path) -> None:
    packed = tmp_path / "large.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("robin.txt", "a robin")
        archive.writestr("noise.bin", os.urandom(200 * MEBIBYTE))
    with server.client() as client:
        key = _collection(client, "Large")
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


def test_a_request_beyond_the_limit_is_refused_in_the_shape(server: Server) -> None:
    with server.client() as client:
        key = _collection(client, "Beyond")
        body = io.BytesIO(bytes(257 * MEBIBYTE))
        try:
            answer = client.post(f"/collections/{key}/items", files={"file": ("zeros.bin", body)})
        except (httpx.WriteError, httpx.ReadError):
            # the server may close before all of it was sent; what counts is that nothing came in
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
        key = _collection(client, "Chunked")
        answer = client.post(
            f"/collections/{key}/items",
            content=parts(),
            headers={"Content-Type": f"multipart/form-data; boundary={boundary}"},
        )
    assert answer.json()["added"] == 1
