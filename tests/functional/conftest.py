"""The whole platform as real processes, once for all functional tests."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from retllm.cli.up import Admin, prepare_client
from retllm.settings import Settings
from retllm.stack import LocalStack


@pytest.fixture(scope="session")
def stack() -> Iterator[LocalStack]:
    """Database, Redis, web server, dispatcher and workers with the models that ship, in a folder of their own."""
    with tempfile.TemporaryDirectory(prefix="retllm-") as folder:
        settings = Settings(
            home=Path(folder) / "home",
            database_url=None,
            redis_url=None,
            port=0,
            preset="demo",
            torch_threads=1,
            # a killed worker's unit is taken up again after seconds, not after a minute
            lease_seconds=5,
        )
        with LocalStack(settings, durable=False) as running:
            yield running


@pytest.fixture(scope="session")
def admin(stack: LocalStack) -> Admin:
    """The first administrator of the stack, with the password."""
    made = prepare_client(stack)
    assert made.password is not None
    return made


@pytest.fixture(scope="session")
def api_token(stack: LocalStack, admin: Admin) -> str:
    """The administrator's token, as the command line keeps it."""
    return str(json.loads((stack.home / "client.json").read_text("utf-8"))["token"])


@pytest.fixture(scope="session")
def api(stack: LocalStack, api_token: str) -> Iterator[httpx.Client]:
    """A client of the REST API, as the administrator; its addresses begin after /api/v1."""
    headers = {"Authorization": f"Bearer {api_token}"}
    with httpx.Client(base_url=f"{stack.url}/api/v1", headers=headers, timeout=30) as client:
        yield client
