"""Processes give their last log lines to Redis, without secrets, and never wait for it."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import structlog

from retllm import logs, redaction
from retllm.operations import log_sender
from retllm.operations.log_lines import LogFilters, LogPage, read
from retllm.operations.log_sender import KEPT, LogSender


@pytest.fixture
def process() -> str:
    """The name of a process that no other test has."""
    return f"web@host-{uuid.uuid4().hex}:7"


@pytest.fixture
def sent(redis_url: str, process: str, tmp_path: Path) -> Callable[[], LogPage]:
    """Returns the lines of the process that are in Redis."""
    return lambda: read(redis_url, tmp_path, LogFilters(process=process, text="line"), limit=2 * KEPT)


@pytest.fixture
def sender(redis_url: str, process: str) -> Iterator[LogSender]:
    """The sender of the process."""
    made = LogSender(redis_url, process)
    yield made
    made.close()


def _record(text: str, level: int = logging.INFO, exc_info: Any = None) -> logging.LogRecord:
    return logging.LogRecord("theirs", level, __file__, 1, text, (), exc_info)


def test_lines_arrive_with_their_values_and_tracebacks(
    sender: LogSender, sent: Callable[[], LogPage], process: str
) -> None:
    try:
        raise ValueError("torn")
    except ValueError as error:
        sender.handle(_record("the first line", logging.ERROR, (type(error), error, error.__traceback__)))
    sender.handle(_record("the second line"))
    sender.close()
    second, first = sent().lines
    assert (first.text, first.level, first.logger, first.process) == ("the first line", "error", "theirs", process)
    assert first.more.endswith("ValueError: torn")
    assert "Traceback" in first.more
    assert (second.text, second.more) == ("the second line", "")
    assert first.at < second.at


def test_a_line_of_ours_has_its_values_and_the_job_that_it_is_about(
    sender: LogSender, sent: Callable[[], LogPage]
) -> None:
    job = uuid.uuid4()
    before = list(logging.getLogger().handlers)
    try:
        logs.configure("INFO")
        logging.getLogger().addHandler(sender)
        structlog.get_logger("ours").info("a line", job_id=str(job), seconds=0.5)
    finally:
        logging.getLogger().handlers = before
    sender.close()
    (line,) = sent().lines
    assert line.text == f"a line job_id={job} seconds=0.5"
    assert line.job_id == job


def test_secrets_are_redacted_also_where_a_long_line_is_cut(
    sender: LogSender, sent: Callable[[], LogPage], monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "a-secret-of-this-test-only"
    monkeypatch.setattr(redaction, "_known", {secret})
    # the cut goes through the secret
    sender.handle(_record(f"line {'x' * 1_985} {secret} {'y' * 9_000}"))
    sender.handle(_record(f"line redis://:{secret}@host and rlm_0123456789abcdef"))
    sender.close()
    short, long = sent().lines
    assert len(long.text) < 4_100
    assert all(part not in long.text for part in (secret, secret[:8], secret[-8:]))
    assert "rlm_***" in short.text
    assert secret not in short.text


def test_the_last_lines_of_a_process_are_kept(sender: LogSender, sent: Callable[[], LogPage]) -> None:
    for number in range(KEPT + 50):
        sender.handle(_record(f"line {number}"))
    sender.close()
    texts = [line.text for line in sent().lines]
    assert len(texts) == KEPT
    assert (texts[0], texts[-1]) == (f"line {KEPT + 49}", "line 50")


def test_a_process_without_redis_goes_on_and_tells_later_how_many_lines_are_lost(
    redis_url: str, process: str, sent: Callable[[], LogPage], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = redis.Redis.from_url(redis_url)
    answers = False

    class Sometimes:
        """A client whose server is away at first."""

        def pipeline(self) -> Any:
            if not answers:
                raise redis.ConnectionError("away")
            return client.pipeline()

    monkeypatch.setattr(log_sender, "client_of", lambda _: Sometimes())
    sender = LogSender("redis://", process)
    monkeypatch.undo()
    for number in range(KEPT + 20):
        sender.handle(_record(f"line {number}"))
    answers = True
    sender.close()
    page = sent()
    assert page.lines[0].text == f"line {KEPT + 19}"
    assert len(page.lines) + page.lost == KEPT + 20
    assert page.lost >= 20


def test_what_the_client_of_redis_logs_is_not_sent(sender: LogSender, sent: Callable[[], LogPage]) -> None:
    class Logging:
        """A client that logs whenever it is used."""

        def __init__(self, client: Any) -> None:
            self._client = client

        def pipeline(self) -> Any:
            sender.handle(_record("a line of the client"))
            return self._client.pipeline()

    sender._redis = Logging(sender._redis)
    sender.handle(_record("the line"))
    sender.close()
    assert [line.text for line in sent().lines] == ["the line"]
