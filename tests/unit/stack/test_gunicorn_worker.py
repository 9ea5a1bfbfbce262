"""The main loop of the web server and the first bytes of a request."""

from __future__ import annotations

import socket

import pytest
from gunicorn.config import Config
from gunicorn.workers.gthread import ThreadWorker

from retllm.stack.client_socket import ClientSocket, RequestSlots
from retllm.stack.gunicorn_worker import Connection, Worker


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
