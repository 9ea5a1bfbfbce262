"""Waiting for a client holds no request slot, and ends if the client makes no progress."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import termios
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.waiting import wait_until

from retllm.stack.client_socket import MIN_BYTES, ClientSocket, RequestSlots

Ends = tuple[socket.socket, socket.socket]
DEADLINE = 60


@pytest.fixture
def slots() -> RequestSlots:
    """One slot, held by this thread."""
    made = RequestSlots(1, lambda: None)
    assert made.try_acquire()
    return made


@pytest.fixture
def ends() -> Iterator[Ends]:
    """A connection: the client's end, with a small buffer, and the server's."""
    with socket.socket() as listener, socket.socket() as client:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 10)
        client.settimeout(DEADLINE)
        client.connect(listener.getsockname())
        with listener.accept()[0] as accepted:
            yield client, accepted


def read_all(client: socket.socket) -> bytes:
    """Read until the server closes the connection."""
    read = bytearray()
    while piece := client.recv(1 << 16):
        read += piece
    return bytes(read)


def test_a_slot_is_free_only_while_its_thread_waits_for_the_client(ends: Ends, slots: RequestSlots) -> None:
    client, accepted = ends
    with ClientSocket(accepted, slots, DEADLINE) as server:
        taken = threading.Event()

        def other_request() -> None:
            while not slots.try_acquire():
                pass
            taken.set()
            client.sendall(b"late")
            slots.release()

        thread = threading.Thread(target=other_request)
        thread.start()
        assert server.recv(100) == b"late"
        thread.join()
        assert taken.is_set()
        assert not slots.try_acquire()


def test_a_client_that_stops_sending_is_disconnected(ends: Ends, slots: RequestSlots) -> None:
    client, accepted = ends
    with ClientSocket(accepted, slots, 0.2) as server:
        client.sendall(b"x" * 100)
        assert server.recv(1000) == b"x" * 100
        with pytest.raises(ConnectionResetError):
            server.recv(1000)
    assert not slots.try_acquire()


def test_a_client_that_does_not_read_is_disconnected_with_a_reset(ends: Ends, slots: RequestSlots) -> None:
    client, accepted = ends
    with ClientSocket(accepted, slots, 0.2) as server, pytest.raises(ConnectionResetError):
        server.sendall(bytes(64 << 20))
    with pytest.raises(ConnectionResetError):
        read_all(client)


def test_a_client_that_reads_receives_the_whole_content(ends: Ends, slots: RequestSlots) -> None:
    client, accepted = ends
    content = os.urandom(4 << 20)
    with ClientSocket(accepted, slots, DEADLINE) as server:
        sender = threading.Thread(target=lambda: (server.sendall(content), server.shutdown(socket.SHUT_WR)))
        sender.start()
        assert read_all(client) == content
        sender.join()


def test_a_non_blocking_socket_raises_blocking_io_error(ends: Ends, slots: RequestSlots) -> None:
    _, accepted = ends
    with ClientSocket(accepted, slots, DEADLINE) as server:
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.recv(1)
        with pytest.raises(BlockingIOError):
            server.sendall(bytes(64 << 20))


def test_data_in_the_send_queue_is_not_counted_as_read(ends: Ends, slots: RequestSlots) -> None:
    client, accepted = ends
    with ClientSocket(accepted, slots, DEADLINE) as server:
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.sendall(bytes(64 << 20))
        # the client has not read anything, but its system has received a bufferful
        assert server._progress() <= client.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < server._sent


@pytest.mark.parametrize("due", [100, 200 << 10])
def test_a_thread_that_waits_for_a_body_is_not_woken_for_each_byte(ends: Ends, slots: RequestSlots, due: int) -> None:
    """It is woken when the rest is there, or enough of it."""
    client, accepted = ends
    enough = min(due, MIN_BYTES)
    with ClientSocket(accepted, slots, DEADLINE) as server, ThreadPoolExecutor(1) as thread:
        server.expect(due)
        waiting = thread.submit(server.recv, due)
        wait_until(slots.try_acquire)
        slots.release()
        for sent in range(1, 50):
            client.sendall(b"x")
            wait_until(lambda sent=sent: _unread(server) == sent)
            assert not waiting.done()
        client.sendall(b"x" * (enough - sent - 1))
        wait_until(lambda: _unread(server) == enough - 1)
        assert not waiting.done()
        client.sendall(b"x")
        assert waiting.result(DEADLINE) == b"x" * enough


def test_the_end_of_a_connection_wakes_a_thread_that_waits_for_a_body(ends: Ends, slots: RequestSlots) -> None:
    client, accepted = ends
    with ClientSocket(accepted, slots, DEADLINE) as server, ThreadPoolExecutor(1) as thread:
        server.expect(100)
        waiting = thread.submit(server.recv, 100)
        client.sendall(b"half")
        client.shutdown(socket.SHUT_WR)
        assert waiting.result(DEADLINE) == b"half"


def test_the_next_request_of_a_connection_is_read_from_its_first_byte(ends: Ends, slots: RequestSlots) -> None:
    client, accepted = ends
    with ClientSocket(accepted, slots, DEADLINE) as server:
        server.expect(10)
        client.sendall(b"x" * 10)
        assert server.recv(10) == b"x" * 10
        server.expect(0)
        client.sendall(b"G")
        assert select.select([server], [], [], DEADLINE)[0]


def _unread(server: ClientSocket) -> int:
    """Return how many bytes the system has received for it."""
    return int(struct.unpack("i", fcntl.ioctl(server, termios.FIONREAD, bytes(4)))[0])
