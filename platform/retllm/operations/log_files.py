"""The logs of the PostgreSQL and Redis servers that the local stack runs, from the ends of their files.

All other processes send their lines (:mod:`retllm.operations.log_sender`); these two are programs of others.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from retllm.redaction import redact

_BLOCK = 64 << 10
_MAX_BYTES = 1 << 20


class FileLine(NamedTuple):
    """A line of a server's log; ``more`` are the lines that follow it without a time of their own."""

    at: datetime
    level: str
    text: str
    more: str


def last_lines(path: Path, count: int) -> list[str]:
    """Return the last lines of a log, oldest first; those before a start of the server are in a file beside it.

    At most 1 MiB of each file is read, from its end; a line that begins before that is left out.
    """
    lines, whole = _tail(path, count)
    if not whole or len(lines) >= count:
        return lines
    return _tail(path.with_name(path.name + ".1"), count - len(lines))[0] + lines


def _tail(path: Path, count: int) -> tuple[list[str], bool]:
    """Return the last lines of a file, and whether they begin where it begins; none if there is no file."""
    try:
        with path.open("rb") as file:
            start = end = file.seek(0, os.SEEK_END)
            content = b""
            while start and content.count(b"\n") <= count and end - start < _MAX_BYTES:
                before, start = start, max(0, start - _BLOCK)
                file.seek(start)
                # no more than was there at first, since the file may grow meanwhile
                content = file.read(before - start) + content
    except OSError:
        return [], True
    lines = content.decode("utf-8", "replace").splitlines()
    return lines[1 if start else 0 :][-count:], not start


# 2025-11-30 15:04:05.678 UTC [4242] ERROR:  text
_POSTGRES = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+) UTC \[\d+\] (?:\S+ )??([A-Z]+\d?):  (.*)")
_POSTGRES_LEVELS = {"WARNING": "warning", "ERROR": "error", "FATAL": "critical", "PANIC": "critical"}
_POSTGRES_DETAILS = {"DETAIL", "HINT", "STATEMENT", "CONTEXT", "QUERY", "LOCATION"}
# 4242:M 30 Nov 2025 15:04:05.678 * text
_REDIS = re.compile(r"\d+:[A-Z] (\d\d \w{3} \d{4} \d\d:\d\d:\d\d\.\d{3}) ([.\-*#]) (.*)")
_REDIS_LEVELS = {".": "debug", "-": "debug", "*": "info", "#": "warning"}


def postgres_lines(lines: Iterable[str]) -> list[FileLine]:
    """Return the lines of a log of PostgreSQL, with what belongs to each, such as its statement."""

    def read(line: str) -> FileLine | None:
        found = _POSTGRES.match(line)
        if found is None or found[2] in _POSTGRES_DETAILS:
            return None
        at = datetime.fromisoformat(found[1]).replace(tzinfo=UTC)
        return FileLine(at, _POSTGRES_LEVELS.get(found[2], "info"), found[3], "")

    return list(_together(lines, read))


def redis_lines(lines: Iterable[str]) -> list[FileLine]:
    """Return the lines of a log of Redis or Valkey, whose times are those of the host's time zone."""

    def read(line: str) -> FileLine | None:
        found = _REDIS.match(line)
        if found is None:
            return None
        at = datetime.strptime(found[1], "%d %b %Y %H:%M:%S.%f").astimezone(UTC)
        return FileLine(at, _REDIS_LEVELS[found[2]], found[3], "")

    return list(_together(lines, read))


def _together(lines: Iterable[str], read: Callable[[str], FileLine | None]) -> Iterator[FileLine]:
    """Yield the lines that have a time, each with those that follow it without one; without secrets."""
    current: FileLine | None = None
    for line in lines:
        found = read(safe := redact(line))
        if found is not None:
            if current is not None:
                yield current
            current = found
        elif current is not None:
            current = current._replace(more=f"{current.more}\n{safe}".strip())
    if current is not None:
        yield current


SERVERS: dict[str, Callable[[Iterable[str]], list[FileLine]]] = {"postgres": postgres_lines, "redis": redis_lines}
"""What reads the log of each server; its file has this name in the folder ``logs`` of ``RETLLM_HOME``."""
