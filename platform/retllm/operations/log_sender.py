"""Gives the last log lines of a process to Redis, where the page of logs reads them, whatever host they are from.

A thread sends them, so that logging never waits for Redis. If Redis does not answer, lines wait in the process, as many
as Redis would keep; older ones are lost for the page, and the next line that arrives says how many. What goes to stderr
is not affected. Lines have no secrets: they are redacted before they leave the process.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import MutableMapping
from typing import Any

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from retllm import logs
from retllm.redaction import redact_within

KEPT = 500
"""Number of lines that Redis keeps of each process."""
MAX_PROCESSES = 100
"""Number of processes that Redis keeps lines of; those that were silent longest go first."""
KEPT_SECONDS = 3 * 86_400
"""Lines of a process are kept for this time after its last one."""
PROCESSES = "retllm:logs"
"""Key of the sorted set of processes, by the time (seconds since 1970) of their last line."""

_SECONDS = 2.0
_MAX_CHARS = 4_000
# lines that are gathered before they are sent, and the time that they may take; a try after a failure waits longer
_BATCH, _GATHER_SECONDS, _RETRY_SECONDS = 100, 0.3, 5.0
_STOP_SECONDS = 2.0


def client_of(redis_url: str) -> redis.Redis:
    """Return a client that gives up soon, since lines can wait, and people do."""
    once = Retry(NoBackoff(), 0)
    return redis.Redis.from_url(redis_url, socket_timeout=_SECONDS, socket_connect_timeout=_SECONDS, retry=once)


def lines_key(process: str) -> str:
    """Return the key of the stream with the lines of a process."""
    return f"{PROCESSES}:{process}"


def send_lines(redis_url: str | None, role: str) -> None:
    """Send the lines of this process from now on; ``role`` is what it does, such as ``web`` or a worker's queues."""
    if redis_url:
        logs.add_handler(LogSender(redis_url, f"{role}@{socket.gethostname()}:{os.getpid()}"))


def _shortened(_logger: Any, _name: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Shorten what is long, once it has no secrets, of which a part would not be recognized."""
    plain = {name: value if isinstance(value, int | float | None) else str(value) for name, value in line.items()}
    whole = redact_within(plain)
    half = _MAX_CHARS // 2
    for name, value in whole.items():
        if isinstance(value, str) and len(value) > _MAX_CHARS:
            whole[name] = f"{value[:half]} … {value[-half:]}"
    line.clear()
    line.update(whole)
    return line


class LogSender(logging.Handler):
    """Sends lines from a thread of its own, in JSON."""

    def __init__(self, redis_url: str, process: str) -> None:
        super().__init__()
        # the traceback becomes text before it is shortened
        self.setFormatter(logs.formatter("json", structlog.processors.format_exc_info, _shortened))
        self._redis = client_of(redis_url)
        self._process = process
        self._lines: deque[str] = deque(maxlen=KEPT)
        self._lost = 0
        # held for moments only, never while Redis is asked
        self._counting = threading.Lock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-sender", daemon=True)
        self._thread.start()

    def handle(self, record: logging.LogRecord) -> bool:
        """Take a line, but none of the thread that sends them, which would go on for ever."""
        return threading.current_thread() is not self._thread and bool(super().handle(record))

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line; it is sent later."""
        try:
            line = self.format(record)
        except Exception:
            self.handleError(record)
            return
        with self._counting:
            self._lost += len(self._lines) == KEPT
            self._lines.append(line)
        self._wake.set()

    def close(self) -> None:
        """Send what is left, for a short time; called at the end of the process."""
        self._stopping.set()
        self._wake.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(_STOP_SECONDS)
        super().close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait()
            self._stopping.wait(_GATHER_SECONDS)
            self._wake.clear()
            while self._lines and self._send():
                pass
            if self._lines:
                self._stopping.wait(_RETRY_SECONDS)
                self._wake.set()
        while self._lines and self._send():
            pass

    def _send(self) -> bool:
        """Send some lines; return whether Redis has them."""
        with self._counting:
            batch = [self._lines.popleft() for _ in range(min(_BATCH, len(self._lines)))]
            lost, self._lost = self._lost, 0
        key = lines_key(self._process)
        try:
            with self._redis.pipeline() as pipeline:
                for number, line in enumerate(batch):
                    fields: dict[Any, Any] = {"line": line}
                    if lost and number == 0:
                        fields["lost"] = lost
                    pipeline.xadd(key, fields, maxlen=KEPT, approximate=False)
                pipeline.expire(key, KEPT_SECONDS)
                pipeline.zadd(PROCESSES, {self._process: time.time()})
                pipeline.zremrangebyrank(PROCESSES, 0, -MAX_PROCESSES - 1)
                pipeline.expire(PROCESSES, KEPT_SECONDS)
                pipeline.execute()
        except (redis.RedisError, OSError):
            with self._counting:
                # newer ones may have come meanwhile, and count more
                room = KEPT - len(self._lines)
                kept = batch[-room:] if room else []
                self._lost += lost + len(batch) - len(kept)
                self._lines.extendleft(reversed(kept))
            return False
        return True
