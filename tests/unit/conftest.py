"""A session on a database of one's own, and passwords that take no time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from argon2 import PasswordHasher
from sqlalchemy.orm import Session

from retllm.db.session import Sessions
from retllm.identity import passwords


@pytest.fixture
def session(fresh_sessions: Sessions) -> Iterator[Session]:
    """A session on an empty database that this test has for itself; nothing is committed unless the test does."""
    with Session(fresh_sessions.kw["bind"]) as opened:
        yield opened


@pytest.fixture(scope="module", autouse=True)
def light_passwords() -> Iterator[None]:
    """Hash with little work: with as much as is wanted to keep passwords, these tests would do little else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passwords, "HASHER", PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))
        yield
