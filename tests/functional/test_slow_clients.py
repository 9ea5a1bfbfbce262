"""Slow and stalled clients: other clients are served, and these are disconnected."""

from __future__ import annotations

import http.client
import io
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from PIL import Image
from tests.functional.serving import THREADS, Server, serving
from tests.soak import scaled
from tests.waiting import wait_until

from retllm.stack.client_socket import MIN_BYTES

# clients of each kind: many times the number of the server's threads
CLIENTS = scaled(64, 500)
MEBIBYTE = 1 << 20
DEADLINE = 180
# memory of a connection: a waiting thread, or the part of a header that was read
MEMORY_PER_CLIENT = 256 << 10
# far smaller than the response, so that the server has to wait
UNREAD_WINDOW = 16 << 10

_HALF_HEADER = b"GET /healthz HTTP/1.1\r\nHost: here\r\nX-Half: "
_HALF_FORM = b"POST /login HTTP/1.1\r\nHost: here\r\nContent-Type: application/x-www-form-urlencoded\r\n"
_LARGE_FORM = b"POST /login HTTP/1.1\r\nHost: here\r\nContent-Type: multipart/form-data; boundary=x\r\n"
_CHUNKED_FORM = _LARGE_FORM + b"Transfer-Encoding: chunked\r\n\r\n"
KINDS = {
    "silent": b"",
    "half header": _HALF_HEADER,
    "half body": _HALF_FORM + b"Content-Length: 1000\r\n\r\nname=ann",
    "half large body": _LARGE_FORM + b"Content-Length: 1000000000\r\n\r\n--x\r\n",
    "half chunk": _CHUNKED_FORM + b"ff\r\n--x\r\n",
    "dripped header": _HALF_HEADER,
    "dripped body": _LARGE_FORM + b"Content-Length: 1000000000\r\n\r\n--x\r\n",
    "unread answer": b"",
}
SECONDS = 3
# far shorter than the server's timeout, while the sum of a transfer's pauses is far longer
PAUSE = 0.5
PIECES = round(2 * SECONDS / PAUSE)


@pytest.fixture(scope="module")
def patient(database_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose timeout for clients is longer than any test."""
    with serving(database_url, redis_url, tmp_path_factory.mktemp("patient"), client_seconds=3600) as running:
        yield running


@pytest.fixture(scope="module")
def strict(database_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose timeout for clients is a few seconds."""
    with serving(database_url, redis_url, tmp_path_factory.mktemp("strict"), client_seconds=SECONDS) as running:
        yield running


def large_picture(server: Server) -> tuple[str, bytes]:
    """Upload a picture of some MiB; return the path of its original and its bytes."""
    size = 1280
    file = io.BytesIO()
    Image.frombytes("RGB", (size, size), os.urandom(3 * size * size)).save(file, "PNG")
    collection = server.collection(f"Large {os.urandom(4).hex()}")
    with server.client() as client:
        answer = client.post(
            f"/collections/{collection}/items", params={"index": "false"}, files={"file": ("a.png", file.getvalue())}
        )
    return f"/api/v1/items/{answer.json()['outcomes'][0]['item_id']}/picture", file.getvalue()


def connect(server: Server, window: int | None = None) -> socket.socket:
    """Connect to the server."""
    where = urlsplit(server.address)
    client = socket.socket()
    if window is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    client.settimeout(DEADLINE)
    client.connect((where.hostname or "", where.port or 0))
    return client


def get(server: Server, path: str) -> bytes:
    """Return an authenticated GET request."""
    lines = (f"GET {path} HTTP/1.1", "Host: here", f"Authorization: Bearer {server.token}", "Connection: close")
    return "\r\n".join([*lines, "", ""]).encode()


def first_bytes(server: Server, kind: str) -> bytes:
    """Return the bytes that clients of a kind send first."""
    return get(server, large_picture(server)[0]) if kind == "unread answer" else KINDS[kind]


@contextmanager
def slow_clients(server: Server, kind: str, first: bytes, number: int = CLIENTS) -> Iterator[None]:
    """Open connections of a kind; dripping clients send one byte per second."""
    window = UNREAD_WINDOW if kind == "unread answer" else None
    over = threading.Event()
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(server, window)) for _ in range(number)]
        for client in clients:
            client.sendall(first)

        def drip() -> None:
            while not over.wait(1):
                for client in clients:
                    try:
                        client.send(b"x", socket.MSG_DONTWAIT)
                    except OSError:  # disconnected
                        continue

        thread = threading.Thread(target=drip)
        if kind.startswith("dripped"):
            thread.start()
            stack.callback(thread.join)
        stack.callback(over.set)
        yield


def connections(server: Server) -> int:
    """Return the number of the server's open connections."""
    port = urlsplit(server.address).port
    open_states = (psutil.CONN_ESTABLISHED, psutil.CONN_CLOSE_WAIT)
    return sum(
        one.laddr.port == port and one.status in open_states
        for process in psutil.Process(server.process.pid).children(recursive=True)
        for one in process.net_connections("tcp")
    )


def check_served(server: Server) -> None:
    """Check the responses to requests with and without a token."""
    assert httpx.get(f"{server.address}/healthz", timeout=DEADLINE).json() == {"alive": True}
    assert "Log in" in httpx.get(f"{server.address}/login", timeout=DEADLINE).text
    with server.client() as client:
        assert client.get("/collections").status_code == 200


@pytest.mark.parametrize("kind", KINDS)
def test_other_clients_are_served_while_slow_clients_stay_connected(patient: Server, kind: str) -> None:
    assert CLIENTS >= 8 * THREADS
    first = first_bytes(patient, kind)
    check_served(patient)
    before = patient.memory()
    with slow_clients(patient, kind, first):
        wait_until(lambda: connections(patient) >= CLIENTS)
        for _ in range(3):
            check_served(patient)
        assert connections(patient) >= CLIENTS, "all slow clients must still be connected"
        assert patient.memory() - before < CLIENTS * MEMORY_PER_CLIENT + 32 * MEBIBYTE
    wait_until(lambda: connections(patient) == 0)


def test_slow_clients_of_all_kinds_are_disconnected(strict: Server) -> None:
    with ExitStack() as stack:
        for kind in KINDS:
            stack.enter_context(slow_clients(strict, kind, first_bytes(strict, kind), min(CLIENTS, 100)))
        check_served(strict)
        wait_until(lambda: connections(strict) == 0)
    check_served(strict)


def read_response(client: socket.socket) -> http.client.HTTPResponse:
    """Wait for the server's response."""
    answer = http.client.HTTPResponse(client)
    answer.begin()
    return answer


def test_a_disconnected_client_gets_an_error_response(strict: Server) -> None:
    body = json.dumps({"name": "Half"}).encode()
    head = f"POST /api/v1/collections HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {strict.token}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body) + 1}\r\n\r\n"
    with connect(strict) as half_header, connect(strict) as half_body:
        half_header.sendall(_HALF_HEADER)
        half_body.sendall(head.encode() + body)
        assert read_response(half_header).status == 408
        answer = read_response(half_body)
        assert answer.status == 400
        assert set(json.loads(answer.read())["error"]) == {"code", "message", "detail"}
        assert half_header.recv(1) == half_body.recv(1) == b""


def test_a_response_that_needs_no_body_is_sent_before_the_body_arrives(patient: Server) -> None:
    token = f"Authorization: Bearer {patient.token}\r\n"
    for length, more, status in ((10, "", 401), (1_000_000_000, "", 401), (1 << 40, token, 413)):
        head = f"POST /api/v1/collections HTTP/1.1\r\nHost: here\r\nContent-Length: {length}\r\n{more}"
        with connect(patient) as client:
            client.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode())
            assert read_response(client).status == status


def test_a_slow_but_steady_upload_is_accepted(strict: Server) -> None:
    content = b"a robin on a branch, " * (4 * MEBIBYTE // 21)
    form_head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n'
    body = form_head + content + b"\r\n--x--\r\n"
    collection = strict.collection("Slow upload")
    head = f"POST /api/v1/collections/{collection}/items?index=false HTTP/1.1\r\nHost: here\r\nConnection: close\r\n"
    head += f"Authorization: Bearer {strict.token}\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    step = len(body) // PIECES + 1
    with connect(strict) as client:
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
        for begin in range(0, len(body), step):
            client.sendall(body[begin : begin + step])
            time.sleep(PAUSE)
        answer = read_response(client)
        assert answer.status == 200
        assert len(json.loads(answer.read())["outcomes"]) == 1


def test_a_slow_but_steady_reader_gets_the_whole_response(strict: Server) -> None:
    path, content = large_picture(strict)
    with connect(strict, UNREAD_WINDOW) as client:
        client.sendall(get(strict, path))
        answer = read_response(client)
        read = bytearray()
        step = len(content) // PIECES + 1
        assert step > MIN_BYTES
        while piece := answer.read(step):
            read += piece
            time.sleep(PAUSE)
    assert bytes(read) == content


def test_clients_above_the_connection_limit_leave_room_for_a_request(patient: Server) -> None:
    """If clients without a request take all connections, the oldest one is closed."""
    limit = 1000
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(patient)) for _ in range(limit + THREADS)]
        check_served(patient)
        assert connections(patient) <= limit
        assert clients[0].recv(1) == b""
    wait_until(lambda: connections(patient) == 0)


def test_a_stop_does_not_wait_for_incomplete_requests(patient: Server) -> None:
    """This is the last test of the file, since it stops the server."""
    with slow_clients(patient, "half header", _HALF_HEADER):
        wait_until(lambda: connections(patient) >= CLIENTS)
        patient.process.terminate()
        assert patient.process.wait(DEADLINE) == 0
