"""In JSON format each log line is one object, and in every thread it has the ids of its context."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import structlog

from retllm import logs

PROGRAM = """
import logging, sys, warnings
import structlog
from retllm import logs

logs.configure("INFO", sys.argv[1])
structlog.get_logger("ours").info("unit.done", unit_id="7", seconds=0.5, path=sys.prefix and object)
logging.getLogger("theirs").warning("two\\nlines of %s", "theirs")
warnings.warn("careful")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("theirs").exception("it broke")
    structlog.get_logger("ours").error("it broke here", exc_info=True)
structlog.get_logger("ours").debug("not said")
"""


def _logged(form: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, form], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_in_json_format_every_line_is_one_object() -> None:
    lines = [json.loads(line) for line in _logged("json")]
    assert [line["event"].split(":")[0] for line in lines[:2]] == ["unit.done", "two\nlines of theirs"]
    assert {name: lines[0][name] for name in ("level", "logger", "unit_id", "seconds")} == {
        "level": "info",
        "logger": "ours",
        "unit_id": "7",
        "seconds": 0.5,
    }
    assert all({"event", "level", "logger", "timestamp"} <= set(line) for line in lines)
    assert "careful" in lines[2]["event"]
    assert [line["event"] for line in lines[3:]] == ["it broke", "it broke here"]
    assert all("ZeroDivisionError" in line["exception"] and "\n" in line["exception"] for line in lines[3:])


def test_in_console_format_lines_are_plain_text() -> None:
    lines = _logged("console")
    assert "unit.done" in lines[0]
    assert "unit_id=7" in lines[0]
    assert not lines[0].startswith("{")


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Returns the lines logged since the last call."""
    root = logging.getLogger()
    before = root.handlers, root.level
    logs.configure("INFO", "json")
    yield lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    root.handlers, root.level = before
    logging.captureWarnings(False)


def test_a_carried_function_keeps_the_log_context_in_other_threads(lines: Callable[[], list[dict[str, Any]]]) -> None:
    both = threading.Barrier(2)

    def work(number: int) -> None:
        both.wait(60)  # two at once in one pool
        structlog.get_logger("test").info("inside", number=number)

    with structlog.contextvars.bound_contextvars(job_id="j"), ThreadPoolExecutor(2) as pool:
        list(pool.map(logs.carried(work), range(2)))
    structlog.get_logger("test").info("outside")
    inside = sorted((line for line in lines() if line["event"] == "inside"), key=lambda line: line["number"])
    assert [(line["number"], line["job_id"]) for line in inside] == [(0, "j"), (1, "j")]
    structlog.get_logger("test").info("outside")
    assert all("job_id" not in line for line in lines())
