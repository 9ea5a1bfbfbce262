"""The main loop of the web server and the first bytes of a request."""

from __future__ import annotations

import contextvars
import socket
import threading
from queue import SimpleQueue

import pytest
from gunicorn.config import Config
from gunicorn.workers.gthread import ThreadWorker
from tests.waiting import wait_until

from retllm.stack import gunicorn_worker
from retllm.stack.client_socket import ClientSocket, RequestSlots
from retllm.stack.gunicorn_worker import Connection, Line, Threads, Worker


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


@pytest.mark.parametrize(
    ("received", "due"),
    [
        (b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc", 7),
        (b"POST / HTTP/1.1\r\ncontent-length:  10 \r\nHost: a\r\n\r\n", 10),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 0),
        # with the beginning of the next request
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET", 0),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nff", 0),
        # of the body, and of a header that is not complete
        (b"POST / HTTP/1.1\r\nHost: a\r\n\r\n\r\nContent-Length: 10\r\n", 0),
        (b"POST / HTTP/1.1\r\nContent-Length: 10\r\nX: " + b"x" * 20_000, 0),
        (b"POST / HTTP/1.1\r\nContent-Length: many\r\n\r\n", 0),
    ],
)
def test_a_thread_knows_how_much_of_a_body_is_to_come(received: bytes, due: int) -> None:
    ours, theirs = socket.socketpair()
    with theirs, ClientSocket(ours, RequestSlots(1, lambda: None), 60) as client:
        connection = Connection(Config(), client, ("127.0.0.1", 1), ("127.0.0.1", 2))
        assert connection.add(received)
        assert connection.take() == received
        assert client._due == due
        assert not connection.received


class TestThreads:
    def test_every_task_runs_at_once_and_threads_are_used_again(self) -> None:
        threads, used, together = Threads(), set(), threading.Barrier(5)

        def task() -> None:
            used.add(threading.get_ident())
            together.wait(60)

        for _ in range(20):
            for _ in range(4):
                threads.run(task)
            together.wait(60)
            wait_until(lambda: threads._free == 4)
        assert len(used) == 4

    def test_threads_without_a_task_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gunicorn_worker, "_FREE_SECONDS", 0.01)
        threads, ended = Threads(), threading.Semaphore(0)
        before = threading.active_count()
        for _ in range(50):
            for _ in range(3):
                threads.run(ended.release)
            for _ in range(3):
                assert ended.acquire(timeout=60), "a task was given to a thread that ends"
        wait_until(lambda: threading.active_count() <= before)
        assert threads._free == 0

    def test_a_task_sees_nothing_that_another_set(self) -> None:
        threads, variable = Threads(), contextvars.ContextVar("variable", default="unset")
        seen: SimpleQueue[str] = SimpleQueue()

        def task() -> None:
            seen.put(variable.get())
            variable.set("set")

        for _ in range(3):
            threads.run(task)
            assert seen.get(timeout=60) == "unset"
            wait_until(lambda: threads._free == 1)
