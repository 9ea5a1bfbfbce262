"""Decode pictures in separate processes, so that a hostile picture can only kill its decoder (design: media).

Each process that decodes keeps a few warm decoders. A decoder that dies, hangs or has decoded its maximum number of
pictures is replaced.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import structlog

from retllm.errors import StackError
from retllm.media import decoder, decoder_process, streams
from retllm.media.decoding.texts import MAX_TEXT, TEXTS
from retllm.media.streams import CHUNK
from retllm.settings import Settings

log = structlog.get_logger(__name__)

# after this number of pictures a decoder is replaced, so that leaked memory and other state go with it
PICTURES_PER_DECODER = 500
_MAX_FACTS = 4096  # bytes of the facts in a response
_STOP_SECONDS = 2.0
# how much lower than that of its process the priority of a decoder is
_niceness = 0
_NICE = 10


class DecoderDied(Exception):
    """The decoder process ended while it decoded a picture."""


class DecoderHung(Exception):
    """The decoder did not respond in time."""


@dataclass(frozen=True, slots=True)
class DecodeRequest:
    """What to return of a picture: with ``side`` or ``copy_side`` the small picture and the working copy.

    Otherwise its pixels; with ``min_side``, those of a JPEG may be returned smaller, with both sides at least so many
    pixels. The arguments are those of :func:`decoder.make_small` and :func:`decoder.load`. With ``split``, only the
    number of pages is returned of a file that has several.
    """

    max_pixels: int
    side: int = 0
    quality: int = 80
    min_side: int = 0
    copy_side: int = 0
    split: bool = False


@dataclass(frozen=True, slots=True)
class SplitRequest:
    """Which parts of a file of several pictures to return: at most ``most``, without the first ``first`` of them.

    ``kind`` is tiff, pdf or film. No side of a part is longer than ``side`` (pixels), and none of its thumbnail than
    ``small_side``; ``copy_side`` is that of :func:`decoding.rendering.copy_size`.
    """

    kind: str
    max_pixels: int
    side: int
    most: int
    small_side: int
    copy_side: int
    first: int = 0


@dataclass(frozen=True, slots=True)
class DecodeResponse:
    """The response of a decoder: a picture or the reason for its rejection. Validate the facts before use."""

    facts: dict[str, Any]
    payload: bytearray


class _Decoder:
    """A decoder process; only one thread uses it at a time."""

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.pictures = 0
        self._deadline = 0.0
        parent_end, child_end = socket.socketpair()
        try:
            with child_end:
                self._process = subprocess.Popen(  # noqa: S603 - our own program
                    decoder_process.command(memory),
                    stdin=child_end.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    env=decoder_process.environment(),
                    # keep signals to the worker's process group from its decoders: they end with their socket
                    start_new_session=True,
                )
        except OSError as error:
            parent_end.close()
            raise StackError(f"The process that decodes pictures can't be started: {error.strerror}.") from error
        self._channel = parent_end
        if _niceness:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, self._process.pid, os.getpriority(os.PRIO_PROCESS, 0) + _niceness)

    def exchange(self, request: DecodeRequest, stream: BinaryIO, length: int, seconds: float) -> DecodeResponse:
        """Send one picture and wait for the response.

        Raises:
            DecoderDied: the process ended.
            DecoderHung: no response came within ``seconds``.
        """
        with self._failures():
            self._request(request, length, seconds)
            self._send_file(stream, length)
            return self._response(request)

    def split(self, request: SplitRequest, file: int, seconds: float) -> Iterator[DecodeResponse]:
        """Pass one file by its descriptor and yield a response for each part, at most ``seconds`` after the one before.

        Raises:
            DecoderDied, DecoderHung: as in :meth:`exchange`.
        """
        with self._failures():
            self._request(request, 0, seconds)
            socket.send_fds(self._channel, [b"\0"], [file])
            # the last response has no part
            for left in range(request.most - request.first, -1, -1):
                response = self._response(request)
                if "end" in response.facts:
                    return
                if not left and "refused" not in response.facts:
                    raise DecoderDied
                yield response
                if "refused" in response.facts:
                    return
                self._deadline = time.monotonic() + seconds

    @staticmethod
    @contextlib.contextmanager
    def _failures() -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise DecoderHung from error
        except (ConnectionError, ValueError) as error:
            raise DecoderDied from error

    def _request(self, request: DecodeRequest | SplitRequest, length: int, seconds: float) -> None:
        line = json.dumps(dataclasses.asdict(request) | {"seconds": seconds, "length": length}).encode()
        self._deadline = time.monotonic() + seconds
        self.pictures += 1
        self._send(decoder.HEAD.pack(len(line)) + line)

    def _response(self, request: DecodeRequest | SplitRequest) -> DecodeResponse:
        facts = self._receive_facts()
        return DecodeResponse(facts, self._receive(_payload_length(facts, request)))

    def _send_file(self, stream: BinaryIO, length: int) -> None:
        remaining = length
        while remaining:
            # errors of the storage are not the decoder's and propagate unchanged
            chunk = stream.read(min(CHUNK, remaining))
            if not chunk:
                raise DecoderDied
            self._send(chunk)
            remaining -= len(chunk)

    def _receive_facts(self) -> dict[str, Any]:
        (size,) = decoder.HEAD.unpack(self._receive(decoder.HEAD.size))
        if size > _MAX_FACTS:
            raise ValueError("too many facts")
        facts = json.loads(self._receive(size))
        if not isinstance(facts, dict):
            raise ValueError("no facts")
        return facts

    def _send(self, data: bytes) -> None:
        self._channel.settimeout(self._seconds_left())
        self._channel.sendall(data)

    def _receive(self, count: int) -> bytearray:
        data = bytearray(count)
        view, done = memoryview(data), 0
        while done < count:
            self._channel.settimeout(self._seconds_left())
            got = self._channel.recv_into(view[done:])
            if not got:
                raise ConnectionResetError
            done += got
        return data

    def _seconds_left(self) -> float:
        seconds = self._deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        return seconds

    def is_alive(self) -> bool:
        """Return whether the process is running: an idle decoder may have been killed."""
        return self._process.poll() is None

    def close(self) -> None:
        """Stop the idle process."""
        self._channel.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Kill the process."""
        self._channel.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()

    def forget(self) -> None:
        """Close the socket in a forked child; the process belongs to the parent."""
        self._channel.close()
        self._process.returncode = 0


def _payload_length(facts: dict[str, Any], request: DecodeRequest | SplitRequest) -> int:
    """Return the length of the payload in bytes, checked against its upper bound."""
    length = facts.get("length")
    if "refused" in facts or "end" in facts:
        maximum = 0
    elif isinstance(request, SplitRequest):
        # a compressed picture is at most slightly larger than its pixels; its copy is no larger
        maximum = 4 * (2 * request.side**2 + request.small_side**2) + CHUNK
    elif request.side or request.copy_side:
        # the same; a copy has no more pixels than its original
        maximum = 4 * (request.side**2 + (request.max_pixels if request.copy_side else 0)) + CHUNK + TEXTS * MAX_TEXT
    else:
        maximum = request.max_pixels * 3
    if not isinstance(length, int) or not 0 <= length <= maximum:
        raise ValueError("impossible length")
    return length


class _DecoderPool:
    """The decoders of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free = threading.Condition()
        self._busy = 0
        self._idle: list[_Decoder] = []
        self._all: set[_Decoder] = set()

    def ask(
        self, request: DecodeRequest, stream: BinaryIO, length: int, settings: Settings, *, fresh: bool = False
    ) -> DecodeResponse:
        """Wait for a decoder slot and exchange one picture; with ``fresh``, start a new decoder for it."""
        with self._worker(settings, fresh=fresh) as worker:
            return worker.exchange(request, stream, length, settings.decode_seconds)

    def split(self, request: SplitRequest, file: int, settings: Settings) -> Iterator[DecodeResponse]:
        """Wait for a decoder slot, pass one file, and yield the responses; the slot is held until the last one."""
        with self._worker(settings) as worker:
            yield from worker.split(request, file, settings.decode_seconds)

    @contextlib.contextmanager
    def _worker(self, settings: Settings, *, fresh: bool = False) -> Iterator[_Decoder]:
        with self._slot(settings.decoders_at_once):
            worker = self._acquire(settings.decode_memory, fresh)
            try:
                yield worker
            except BaseException:
                # its socket may contain part of a request or response
                self._remove(worker)
                worker.kill()
                raise
            if worker.pictures < PICTURES_PER_DECODER:
                with self._lock:
                    self._idle.append(worker)
            else:
                self._remove(worker)
                worker.close()

    @contextlib.contextmanager
    def _slot(self, limit: int) -> Iterator[None]:
        """Hold one of ``limit`` slots; wait until one is free."""
        with self._free:
            self._free.wait_for(lambda: self._busy < limit)
            self._busy += 1
        try:
            yield
        finally:
            with self._free:
                self._busy -= 1
                self._free.notify()

    def _acquire(self, memory: int, fresh: bool) -> _Decoder:
        with self._lock:
            while self._idle:
                worker = self._idle.pop()
                if worker.memory == memory and worker.is_alive() and not fresh:
                    return worker
                self._all.discard(worker)
                worker.kill()
        worker = _Decoder(memory)
        with self._lock:
            self._all.add(worker)
        return worker

    def _remove(self, worker: _Decoder) -> None:
        with self._lock:
            self._all.discard(worker)

    def close(self) -> None:
        """Kill every decoder."""
        with self._lock:
            workers, self._all, self._idle = self._all, set(), []
        for worker in workers:
            worker.kill()

    def forget(self) -> None:
        """Drop the decoders in a forked child; they belong to the parent."""
        for worker in self._all:
            worker.forget()


_pool = _DecoderPool()


def ask(request: DecodeRequest, stream: BinaryIO, length: int, settings: Settings) -> DecodeResponse:
    """Send the ``length`` bytes of a seekable stream to a decoder and return its response.

    A decoder can die for other reasons than the picture, such as lack of memory, which also kills idle decoders. So
    when one dies, the picture is retried once with a new decoder. A timeout is not retried.

    Raises:
        DecoderDied: two decoders died while they decoded the picture.
        DecoderHung: decoding took longer than ``decode_seconds``.
        StackError: no process can be started.
    """
    stream.seek(0)
    try:
        return _pool.ask(request, stream, length, settings)
    except DecoderDied:
        log.warning("a decoder crashed")
    stream.seek(0)
    return _pool.ask(request, stream, length, settings, fresh=True)


def split(request: SplitRequest, stream: BinaryIO, settings: Settings) -> Iterator[DecodeResponse]:
    """Let a decoder read the file in ``stream`` (seekable) and yield one response for each part of the file.

    A response with "refused" is the last one.

    Raises:
        DecoderDied: the decoder died; it is not known at which part.
        DecoderHung: a part took longer than ``decode_seconds``.
        StackError: no process can be started.
    """
    with streams.read_only(stream) as file:
        yield from _pool.split(request, file, settings)


def give_way() -> None:
    """Let this process go before its decoders where cores are rare: it has more to do than wait for them."""
    global _niceness
    _niceness = _NICE


def close() -> None:
    """Kill the decoders of this process; the next picture starts new ones."""
    _pool.close()


def _after_fork() -> None:
    global _pool
    _pool.forget()
    _pool = _DecoderPool()


atexit.register(close)
os.register_at_fork(after_in_child=_after_fork)
