"""The mark of the tests that hurt a whole platform."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "chaos: runs a whole platform and hurts it; minutes long")
