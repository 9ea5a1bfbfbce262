"""The last log lines of all processes, newest first, for administrators.

Processes send their lines to Redis from whatever host they run on (:mod:`retllm.operations.log_sender`); those of the
PostgreSQL and Redis servers of a local stack are read from their files on the host of the web server.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

import redis

from retllm.errors import InvalidInput
from retllm.operations.log_files import SERVERS, last_lines
from retllm.operations.log_sender import KEPT, MAX_PROCESSES, PROCESSES, client_of, lines_key

LEVELS = ("debug", "info", "warning", "error", "critical")
"""From the least to the most serious."""
_SHOWN_BESIDE = ("event", "level", "logger", "timestamp", "exception")


@dataclass(frozen=True)
class LogLine:
    """A line.

    Attributes:
        key: unique, and the same each time that the line is read.
        process: what the process does, its host and its number (``web@host:42``), or the name of a server.
        text: the event and its values.
        more: a traceback, or the lines that belong to it.
    """

    key: str
    at: datetime
    process: str
    level: str
    logger: str
    text: str
    more: str = ""
    job_id: UUID | None = None

    @property
    def place(self) -> LogPlace:
        """The place of the line in the list."""
        return LogPlace(self.at, self.key)


LOG_PLACE = r"^[0-9]{1,17}_[!-~]{1,900}$"
"""Format of a place: microseconds since 1970 and the key of a line."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, order=True)
class LogPlace:
    """The place of a line in the list of all lines, which is sorted by time."""

    at: datetime
    key: str

    def __str__(self) -> str:
        return f"{(self.at - _EPOCH) // _MICROSECOND}_{self.key}"

    @classmethod
    def parse(cls, text: str) -> LogPlace:
        """Parse a place.

        Raises:
            InvalidInput: ``text`` is none.
        """
        if not re.fullmatch(LOG_PLACE, text):
            raise InvalidInput("This is not a valid place in the list; use `next` of the previous page.", field="after")
        moment, _, key = text.partition("_")
        return cls(_EPOCH + int(moment) * _MICROSECOND, key)


@dataclass(frozen=True)
class LogFilters:
    """Filters of lines; None and the empty text match everything.

    Attributes:
        process: a process, its host and number (the name of a worker), or what it does, such as ``web``.
        level: this one or a more serious one.
        text: what the text or the traceback contains, ignoring case.
        since, until: at this time or later; before this time.
    """

    process: str | None = None
    level: str | None = None
    text: str = ""
    since: datetime | None = None
    until: datetime | None = None

    def matches(self, line: LogLine) -> bool:
        """Return whether a line matches, whatever process it is of."""
        return (
            (self.level is None or severity(line.level) >= severity(self.level))
            and (self.since is None or line.at >= self.since)
            and (self.until is None or line.at < self.until)
            and self.text.lower() in f"{line.text}\n{line.more}".lower()
        )

    def chooses(self, process: str) -> bool:
        """Return whether lines of a process are wanted."""
        return self.process in (None, process, role_of(process), process.rpartition("@")[2])

    @property
    def any(self) -> bool:
        """Whether there is a filter on lines, so that all that are kept have to be read."""
        return bool(self.level or self.text or self.since or self.until)


@dataclass(frozen=True)
class LogPage:
    """A page of lines, newest first.

    Attributes:
        processes: all that have lines, the one that logged last first.
        next: the place after which the next page begins; None on the last one.
        lost: how many lines of the processes on this page never arrived, since Redis did not answer for long.
        reached: whether Redis answered; otherwise only the servers' own files are here.
    """

    lines: Sequence[LogLine]
    processes: Sequence[str]
    next: LogPlace | None
    lost: int
    reached: bool


def role_of(process: str) -> str:
    """Return what a process does."""
    return process.rpartition("@")[0] or process


def severity(level: str) -> int:
    """Return the rank of a level; one that is not known is as serious as an information."""
    return LEVELS.index(level) if level in LEVELS else LEVELS.index("info")


def read(
    redis_url: str | None, home: Path, filters: LogFilters, *, after: LogPlace | None = None, limit: int = 100
) -> LogPage:
    """Return lines that match. The number of bytes that this reads is bounded, whatever was logged.

    Args:
        redis_url: where processes send their lines.
        home: the folder of a local stack, for the logs of its servers.
        after: the place of the last line of the previous page.
    """
    count = KEPT if filters.any or after is not None else min(KEPT, limit + 1)
    sent, lost, processes, reached = _sent(redis_url, filters, count)
    servers = [name for name in SERVERS if (home / "logs" / f"{name}.log").exists()]
    filed = (line for name in servers if filters.chooses(name) for line in _filed(home, name))
    found = [line for line in (*sent, *filed) if filters.matches(line) and (after is None or line.place < after)]
    found.sort(key=lambda line: line.place, reverse=True)
    following = found[limit - 1].place if len(found) > limit else None
    return LogPage(found[:limit], [*processes, *servers], following, lost, reached)


def _sent(redis_url: str | None, filters: LogFilters, count: int) -> tuple[list[LogLine], int, list[str], bool]:
    """Return the lines that processes sent, how many were lost, the processes, and whether Redis answered."""
    if not redis_url:
        return [], 0, [], False
    client = client_of(redis_url)
    try:
        with client, client.pipeline(transaction=False) as pipeline:
            members: Any = client.zrevrange(PROCESSES, 0, MAX_PROCESSES - 1)
            processes = [name.decode("utf-8", "replace") for name in members]
            chosen = [name for name in processes if filters.chooses(name)]
            for name in chosen:
                pipeline.xrevrange(lines_key(name), count=count)
            answers = pipeline.execute()
    except (redis.RedisError, OSError):
        return [], 0, [], False
    entries = [(name, *entry) for name, answer in zip(chosen, answers, strict=True) for entry in answer]
    lost = sum(int(fields.get(b"lost", 0)) for _, _, fields in entries)
    return list(_read_all(entries)), lost, processes, True


def _read_all(entries: Iterable[tuple[str, bytes, dict[bytes, bytes]]]) -> Iterator[LogLine]:
    for process, number, fields in entries:
        try:
            values = json.loads(fields[b"line"])
            at = datetime.fromisoformat(values["timestamp"])
        except (KeyError, TypeError, ValueError):
            # not a line of ours: whoever can write to Redis may have put anything there
            continue
        yield LogLine(
            key=f"{quote(process, safe='@:,')}:{number.decode()}",
            at=at if at.tzinfo else at.replace(tzinfo=UTC),
            process=process,
            level=str(values.get("level", "info")),
            logger=str(values.get("logger", "")),
            text=_text(values),
            more=str(values.get("exception") or ""),
            job_id=_key(values.get("job_id")),
        )


def _text(values: dict[str, Any]) -> str:
    beside = (f"{name}={value}" for name, value in values.items() if name not in _SHOWN_BESIDE and value is not None)
    return " ".join([str(values.get("event", "")), *beside])


def _key(value: object) -> UUID | None:
    try:
        return UUID(str(value))
    except ValueError:
        return None


def _filed(home: Path, server: str) -> Iterator[LogLine]:
    lines = SERVERS[server](last_lines(home / "logs" / f"{server}.log", KEPT))
    same: Counter[datetime] = Counter()
    for line in lines:
        # lines of the same time are in the order of the file
        same[line.at] += 1
        key = f"{server}:{same[line.at]:06}"
        yield LogLine(key, line.at, server, line.level, server, line.text, line.more)
