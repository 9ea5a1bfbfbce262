"""Items are compared with a filter for a limited time, and nothing of it is left."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from tests.factories import make_user, store

from retllm.db.session import Sessions, transaction
from retllm.db.tables import User, new_id
from retllm.errors import InvalidInput
from retllm.filters import bounded


def test_a_statement_that_takes_too_long_is_undone_and_the_session_goes_on(fresh_sessions: Sessions) -> None:
    with transaction(fresh_sessions) as session:
        store(session, make_user("before"))
        made = sa.insert(User).values(name="inside", password_hash="-", role="viewer", id=new_id())
        slow = made.returning(sa.text("pg_sleep(60)"))
        with pytest.raises(InvalidInput, match=r"longer than 0\.2 s"), bounded(session, 0.2):
            session.execute(slow)
        store(session, make_user("after"))
    with fresh_sessions() as session:
        assert set(session.scalars(sa.select(User.name))) == {"before", "after"}


def test_other_statements_and_other_errors_are_as_ever(fresh_sessions: Sessions) -> None:
    with transaction(fresh_sessions) as session:
        before = session.scalar(sa.text("SHOW statement_timeout"))
        with bounded(session, 5):
            assert session.scalar(sa.text("SHOW statement_timeout")) == "5s"
        assert session.scalar(sa.text("SHOW statement_timeout")) == before
        with pytest.raises(sa.exc.DBAPIError, match="division"), bounded(session, 5):
            session.execute(sa.text("SELECT 1 / 0"))


def test_a_filter_is_not_kept_in_memory(fresh_sessions: Sessions) -> None:
    kept: dict[Any, Any] = {}
    engine = fresh_sessions.kw["bind"].execution_options(compiled_cache=kept)
    with fresh_sessions(bind=engine) as session:
        with bounded(session, 60):
            session.scalars(sa.select(User.id).where(sa.or_(*(User.name == str(n) for n in range(100))))).all()
        assert not kept
    with fresh_sessions(bind=engine) as session:
        session.scalars(sa.select(User.id)).all()
        assert kept
