"""A session on a database of one's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy.orm import Session

from retllm.db.session import make_engine


@pytest.fixture
def session(fresh_database: str) -> Iterator[Session]:
    """A session on an empty database that this test has for itself; nothing is committed unless the test does."""
    engine = make_engine(fresh_database)
    with Session(engine) as opened:
        yield opened
    engine.dispose()
