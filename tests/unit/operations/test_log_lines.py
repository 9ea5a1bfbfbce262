"""Administrators read the last lines of all processes, newest first."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from retllm.errors import InvalidInput
from retllm.operations.log_lines import LogFilters, LogPlace, read
from retllm.operations.log_sender import PROCESSES, lines_key

NOON = datetime(2025, 11, 30, 12, 0, tzinfo=UTC)
Log = Callable[..., None]


@pytest.fixture
def host() -> str:
    """A host that no other test has."""
    return f"host-{uuid.uuid4().hex}"


@pytest.fixture
def log(redis_url: str, host: str) -> Log:
    """Gives a line of a process on the host to Redis."""
    client = redis.Redis.from_url(redis_url)

    def send(role: str, event: str, seconds: float = 0, level: str = "info", **values: Any) -> None:
        at = (NOON + timedelta(seconds=seconds)).isoformat()
        line = {"event": event, "level": level, "logger": "ours", "timestamp": at, **values}
        client.xadd(lines_key(f"{role}@{host}:1"), {"line": json.dumps(line)})
        client.zadd(PROCESSES, {f"{role}@{host}:1": time.time()})

    return send


@pytest.fixture
def texts(redis_url: str, host: str, tmp_path: Path) -> Callable[..., list[str]]:
    """Returns the texts of the lines of the host that match."""

    def found(filters: LogFilters | None = None) -> list[str]:
        page = read(redis_url, tmp_path, filters or LogFilters(), limit=100_000)
        return [line.text for line in page.lines if f"@{host}:" in line.process]

    return found


def test_lines_of_all_processes_are_sorted_by_time(log: Log, texts: Callable[..., list[str]]) -> None:
    log("web", "second", 2)
    log("score", "first", 1)
    log("web", "third", 3)
    assert texts() == ["third", "second", "first"]


def test_lines_are_found_by_process_level_text_and_time(log: Log, texts: Callable[..., list[str]], host: str) -> None:
    log("web", "plain", 1)
    log("web", "careful", 2, "warning")
    log("score:judge", "broken", 3, "error", exception="Traceback\nOSError: Disk")
    assert texts(LogFilters(process="web")) == texts(LogFilters(process=f"web@{host}:1")) == ["careful", "plain"]
    assert texts(LogFilters(process="score:judge")) == ["broken"]
    assert texts(LogFilters(process=f"{host}:1")) == ["broken", "careful", "plain"]
    assert texts(LogFilters(level="warning")) == ["broken", "careful"]
    assert texts(LogFilters(text="oserror: disk")) == ["broken"]
    assert texts(LogFilters(since=NOON + timedelta(seconds=2), until=NOON + timedelta(seconds=3))) == ["careful"]


def test_pages_lead_through_all_lines_once_also_of_the_same_time(
    redis_url: str, log: Log, host: str, tmp_path: Path
) -> None:
    for number in range(7):
        log("web", f"line {number}", number // 3)
    seen: list[str] = []
    after = None
    while True:
        page = read(redis_url, tmp_path, LogFilters(process=f"web@{host}:1"), after=after, limit=2)
        seen += [line.text for line in page.lines]
        if page.next is None:
            break
        after = LogPlace.parse(str(page.next))
    assert sorted(seen) == [f"line {number}" for number in range(7)]
    assert seen[0] == "line 6"


def test_a_page_without_filters_tells_that_there_are_more(redis_url: str, log: Log, host: str, tmp_path: Path) -> None:
    for number in range(3):
        log("web", f"line {number}", number)
    filters = LogFilters(process=f"web@{host}:1")
    assert read(redis_url, tmp_path, filters, limit=2).next is not None
    assert read(redis_url, tmp_path, filters, limit=3).next is None


@pytest.mark.parametrize("text", ["", "x", "1", "_key", "1_", "1_with space", "1" * 18 + "_key"])
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        LogPlace.parse(text)


def test_what_is_no_line_is_left_out(redis_url: str, log: Log, host: str, texts: Callable[..., list[str]]) -> None:
    log("web", "a line")
    client = redis.Redis.from_url(redis_url)
    for line in (b"", b"no json", b"[]", b"{}", b'{"timestamp": 5}', b'{"timestamp": "now"}', b"\xff"):
        client.xadd(lines_key(f"web@{host}:1"), {"line": line})
    client.xadd(lines_key(f"web@{host}:1"), {"other": "field"})
    client.xadd(lines_key(f"web@{host}:1"), {"line": json.dumps({"timestamp": NOON.isoformat(), "job_id": "no key"})})
    assert sorted(texts()) == [" job_id=no key", "a line"]


def test_without_redis_the_servers_own_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "postgres.log").write_text("2025-11-30 15:04:05.678 UTC [42] LOG:  ready\n")
    for address in ("redis://127.0.0.1:1/0", None):
        page = read(address, tmp_path, LogFilters())
        assert (page.reached, page.processes) == (False, ["postgres"])
        assert [(line.process, line.text) for line in page.lines] == [("postgres", "ready")]
    assert read(None, tmp_path, LogFilters(process="redis")).lines == []
