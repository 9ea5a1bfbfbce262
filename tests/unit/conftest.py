"""A session on a database of one's own, and passwords that take no time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from argon2 import PasswordHasher
from sqlalchemy.orm import Session

from retllm.db.session import make_engine
from retllm.identity import passwords


@pytest.fixture
def session(fresh_database: str) -> Iterator[Session]:
    """A session on an empty database that this test has for itself; nothing is committed unless the test does."""
    engine = make_engine(fresh_database)
    with Session(engine) as opened:
        yield opened
    engine.dispose()


@pytest.fixture(scope="module", autouse=True)
def light_passwords() -> Iterator[None]:
    """Hash with little work: with as much as is wanted to keep passwords, these tests would do little else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passwords, "HASHER", PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))
        yield
