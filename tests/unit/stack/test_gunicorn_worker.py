"""The main loop of the web server and the first bytes of a request."""

from __future__ import annotations

import socket

import pytest
from gunicorn.config import Config
from gunicorn.workers.gthread import ThreadWorker

from retllm.stack.client_socket import ClientSocket, RequestSlots
from retllm.stack.gunicorn_worker import Connection, Line, Worker


@pytest.mark.parametrize(
    ("pieces", "ready"),
    [
        ((b"GET / HTTP/1.1\r\n", b"Host: a\r\n", b"\r\n"), True),
        ((b"GET / HTTP/1.1\r\nHost: a\r\n\r", b"\nbody"), True),
        ((b"GET / HTTP/1.1\r\nHost: a\r\n\r",), False),
        ((b"G",), False),
        # one empty line is allowed first
        ((b"\r", b"\nGET / HTTP/1.1\r\n"), False),
        # a malformed header is answered at once
        ((b"GET / HTTP/1.1\n",), True),
        ((b"GET / HTTP/1.1\r", b"\nHost: a\r", b"X\n"), True),
        ((b"\x16\x03\x01",), True),
        # the parser enforces the maximum length
        ((b"GET /" + b"x" * 20_000,), True),
    ],
)
def test_a_request_is_ready_for_a_thread_when_its_header_is_complete_or_malformed(
    pieces: tuple[bytes, ...], ready: bool
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = Connection(Config(), ours, ("127.0.0.1", 1), ("127.0.0.1", 2))
        *before, last = pieces
        for piece in before:
            assert not connection.add(piece)
        assert connection.add(last) is ready
        assert bytes(connection.received) == b"".join(pieces)


def test_each_request_of_a_connection_gives_its_client_a_new_period(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    # the client sends the body when the server waits for it
    slots = RequestSlots(1, lambda: theirs.sendall(b"body"))
    monkeypatch.setattr(ThreadWorker, "handle", lambda _, conn: conn.sock.recv(100) == b"body")
    worker = Worker.__new__(Worker)
    with theirs, ClientSocket(ours, slots, 60) as client:
        connection = Connection(Config(), client, ("127.0.0.1", 1), ("127.0.0.1", 2))
        for _ in range(2):
            assert slots.try_acquire()
            client._waited = 60.0
            connection.add(b"POST / HTTP/1.1\r\n\r\n")
            assert worker.handle(connection)
            slots._free.release()


@pytest.mark.parametrize(
    ("header", "check"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", b"healthz"),
        (b"HEAD /readyz?x HTTP/1.1\r\nHost: a\r\n\r\n", b"readyz"),
        (b"GET /healthzzz HTTP/1.1\r\nHost: a\r\n\r\n", None),
        (b"POST /healthz HTTP/1.1\r\nHost: a\r\n\r\n", None),
        # its thread still waits for the rest
        (b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 20_000, None),
    ],
)
def test_each_health_check_has_a_slot_of_its_own_if_it_is_whole(
    monkeypatch: pytest.MonkeyPatch, header: bytes, check: bytes | None
) -> None:
    ours, theirs = socket.socketpair()
    worker = Worker.__new__(Worker)
    lines = {name: Line(1, lambda: None) for name in (b"healthz", b"readyz", None)}
    worker._requests = lines[None]
    worker._checks = {name: line for name, line in lines.items() if name}
    monkeypatch.setattr(Worker, "_start_ready", lambda _: None)
    with theirs, ClientSocket(ours, worker._requests.slots, 60) as client:
        connection = Connection(Config(), client, ("127.0.0.1", 1), ("127.0.0.1", 2))
        assert connection.add(header)
        worker.enqueue_req(connection)
        assert client.slots is lines[check].slots
