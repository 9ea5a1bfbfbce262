"""Small Python programs in place of real processes."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retllm.stack.child import ProcessSpec

Standin = Callable[..., ProcessSpec]


@pytest.fixture
def standin(tmp_path: Path) -> Standin:
    """Returns the spec of a process that runs a Python program, with its log in the test's folder."""

    def make(name: str, program: str, **fields: Any) -> ProcessSpec:
        fields.setdefault("env", dict(os.environ))
        return ProcessSpec(name, (sys.executable, "-S", "-c", program), tmp_path / "logs" / f"{name}.log", **fields)

    return make


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until `condition()` is true; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.02)


@pytest.fixture
def until() -> Callable[..., None]:
    """`wait_until` as a fixture, since tests do not import conftest."""
    return wait_until
