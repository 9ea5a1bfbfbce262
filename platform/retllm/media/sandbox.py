"""Pictures are decoded in processes of their own, which may be killed by what they decode (design: media).

A few of them are kept warm in each process that needs one. One that dies, hangs or has done its share is replaced.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import structlog

from retllm.errors import StackError
from retllm.media import decoder
from retllm.media.streams import CHUNK
from retllm.settings import Settings

log = structlog.get_logger(__name__)

# pictures after which a decoder is replaced, so that what it may have leaked or kept is gone
SHARE = 500
_MAX_FACTS = 4096  # bytes of the facts in an answer
_SECONDS_TO_END = 2.0


class DecoderDied(Exception):
    """The decoder ended in the middle of a picture."""


class DecoderHung(Exception):
    """The decoder had no answer in time."""


@dataclass(frozen=True, slots=True)
class DecodeRequest:
    """What is wanted of a picture: with a ``side`` (pixels) a small WebP of this ``quality``, else its pixels.

    With ``least``, a JPEG may come smaller, but with no side shorter than so many pixels.
    """

    max_pixels: int
    side: int = 0
    quality: int = 80
    least: int = 0


@dataclass(frozen=True, slots=True)
class DecodeResponse:
    """What a decoder made of a picture, or why it made nothing; facts are not to be believed unseen."""

    facts: dict[str, Any]
    payload: bytearray


class _Decoder:
    """One process that decodes, used by one thread at a time."""

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.done = 0
        self._until = 0.0
        ours, theirs = socket.socketpair()
        # no environment: there are secrets in it. What it imports is looked for where this process found it.
        found = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, "-S", "-s", "-P", "-B", str(Path(decoder.__file__)), str(memory)]
        try:
            with theirs:
                self._process = subprocess.Popen(  # noqa: S603 - our own program
                    command,
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    env=found,
                    # a signal to the group of a worker is not for its decoders: they end with their socket
                    start_new_session=True,
                )
        except OSError as error:
            ours.close()
            raise StackError(f"No process can be started to decode a picture: {error.strerror}.") from error
        self._channel = ours

    def exchange(self, wish: DecodeRequest, stream: BinaryIO, length: int, seconds: float) -> DecodeResponse:
        """Send one picture and wait for what comes of it.

        Raises:
            DecoderDied: the process ended.
            DecoderHung: ``seconds`` were over.
        """
        asked = {
            "max_pixels": wish.max_pixels,
            "side": wish.side,
            "quality": wish.quality,
            "least": wish.least,
            "seconds": seconds,
            "length": length,
        }
        line = json.dumps(asked).encode()
        self._until = time.monotonic() + seconds
        self.done += 1
        try:
            self._send(decoder.HEAD.pack(len(line)) + line)
            self._send_file(stream, length)
            facts = self._facts()
            return DecodeResponse(facts, self._receive(_payload_length(facts, wish)))
        except TimeoutError as error:
            raise DecoderHung from error
        except (ConnectionError, ValueError) as error:
            raise DecoderDied from error

    def _send_file(self, stream: BinaryIO, length: int) -> None:
        left = length
        while left:
            # an error of the disk or the store is not the decoder's: it goes through as it is
            chunk = stream.read(min(CHUNK, left))
            if not chunk:
                raise DecoderDied
            self._send(chunk)
            left -= len(chunk)

    def _facts(self) -> dict[str, Any]:
        (size,) = decoder.HEAD.unpack(self._receive(decoder.HEAD.size))
        if size > _MAX_FACTS:
            raise ValueError("too many facts")
        facts = json.loads(self._receive(size))
        if not isinstance(facts, dict):
            raise ValueError("no facts")
        return facts

    def _send(self, data: bytes) -> None:
        self._channel.settimeout(self._left())
        self._channel.sendall(data)

    def _receive(self, count: int) -> bytearray:
        data = bytearray(count)
        view, done = memoryview(data), 0
        while done < count:
            self._channel.settimeout(self._left())
            got = self._channel.recv_into(view[done:])
            if not got:
                raise ConnectionResetError
            done += got
        return data

    def _left(self) -> float:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def lives(self) -> bool:
        """Whether the process is still there: one that waits may have been killed."""
        return self._process.poll() is None

    def close(self) -> None:
        """Let the process end; it has done its work."""
        self._channel.close()
        try:
            self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End the process, whatever it does."""
        self._channel.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()

    def forget(self) -> None:
        """Close what a fork copied; the process belongs to the parent."""
        self._channel.close()
        self._process.returncode = 0


def _payload_length(facts: dict[str, Any], wish: DecodeRequest) -> int:
    """Bytes that follow, as far as they can be true."""
    length = facts.get("length")
    if "refused" in facts:
        most = 0
    elif wish.side:
        # no WebP of this size is larger than its pixels by much
        most = wish.side * wish.side * 4 + CHUNK
    else:
        most = wish.max_pixels * 3
    if not isinstance(length, int) or not 0 <= length <= most:
        raise ValueError("an impossible length")
    return length


class _Pool:
    """The decoders of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free = threading.Condition()
        self._busy = 0
        self._idle: list[_Decoder] = []
        self._all: set[_Decoder] = set()

    def ask(
        self, wish: DecodeRequest, stream: BinaryIO, length: int, settings: Settings, *, anew: bool = False
    ) -> DecodeResponse:
        """One exchange with a decoder, when there is room for it; ``anew`` trusts none that has waited."""
        with self._place(settings.decoders_at_once):
            one = self._taken(settings.decode_memory, anew)
            try:
                answer = one.exchange(wish, stream, length, settings.decode_seconds)
            except BaseException:
                # half a request or an answer may be in its socket
                self._drop(one)
                one.kill()
                raise
            if one.done < SHARE:
                with self._lock:
                    self._idle.append(one)
            else:
                self._drop(one)
                one.close()
            return answer

    @contextlib.contextmanager
    def _place(self, most: int) -> Iterator[None]:
        """Room for one of ``most`` decoders at work; more wait."""
        with self._free:
            self._free.wait_for(lambda: self._busy < most)
            self._busy += 1
        try:
            yield
        finally:
            with self._free:
                self._busy -= 1
                self._free.notify()

    def _taken(self, memory: int, anew: bool) -> _Decoder:
        with self._lock:
            while self._idle:
                one = self._idle.pop()
                if one.memory == memory and one.lives() and not anew:
                    return one
                self._all.discard(one)
                one.kill()
        one = _Decoder(memory)
        with self._lock:
            self._all.add(one)
        return one

    def _drop(self, one: _Decoder) -> None:
        with self._lock:
            self._all.discard(one)

    def close(self) -> None:
        """End every decoder."""
        with self._lock:
            every, self._all, self._idle = self._all, set(), []
        for one in every:
            one.kill()

    def forget(self) -> None:
        """Leave the decoders to the process that was forked."""
        for one in self._all:
            one.forget()


_pool = _Pool()


def ask(wish: DecodeRequest, stream: BinaryIO, length: int, settings: Settings) -> DecodeResponse:
    """What a decoder makes of the ``length`` bytes of a seekable stream.

    A decoder may be killed by others than the picture (the machine is out of memory), and those that wait with it: when
    one dies, the picture is tried once more, by one that is started for it. When one hangs, it took its time already.

    Raises:
        DecoderDied: two decoders ended over it.
        DecoderHung: it took longer than ``decode_seconds``.
        StackError: no process can be started.
    """
    stream.seek(0)
    try:
        return _pool.ask(wish, stream, length, settings)
    except DecoderDied:
        log.warning("a decoder died")
    stream.seek(0)
    return _pool.ask(wish, stream, length, settings, anew=True)


def close() -> None:
    """End the decoders of this process; the next picture starts new ones."""
    _pool.close()


def _after_fork() -> None:
    global _pool
    _pool.forget()
    _pool = _Pool()


atexit.register(close)
os.register_at_fork(after_in_child=_after_fork)
