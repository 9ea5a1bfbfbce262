"""Transactions that the server aborts because of another one are retried, and not reported as an outage."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
import sqlalchemy as sa

from retllm.db import session as db_session
from retllm.db.session import Sessions, make_sessions, run_transaction, transaction
from retllm.db.tables import Collection, new_id
from retllm.errors import Conflict, DatabaseBusy
from retllm.identity import accounts


@pytest.fixture
def sessions(fresh_database: str) -> Iterator[Sessions]:
    made = make_sessions(fresh_database)
    yield made
    made.kw["bind"].dispose()


@pytest.fixture
def keys(sessions: Sessions) -> list[UUID]:
    """Return the keys of two collections."""
    with transaction(sessions) as session:
        owner = accounts.create_user(session, "ada", "a-long-password")
        made = [Collection(id=new_id(), owner_id=owner.id, name=name) for name in ("a", "b")]
        session.add_all(made)
    return [one.id for one in made]


def _append(session: Any, key: UUID, word: str) -> None:
    longer = sa.func.concat(Collection.description, word)
    session.execute(sa.update(Collection).where(Collection.id == key).values(description=longer))


def test_both_transactions_of_a_deadlock_commit_exactly_once(sessions: Sessions, keys: list[UUID]) -> None:
    both_hold_one = threading.Barrier(2, timeout=60)
    runs = {"x": 0, "y": 0}
    errors: list[Exception] = []

    def write(word: str, order: list[UUID]) -> None:
        def do(session: Any) -> None:
            runs[word] += 1
            _append(session, order[0], word)
            if runs[word] == 1:
                both_hold_one.wait()
            _append(session, order[1], word)

        try:
            run_transaction(sessions, do)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=("x", keys)), threading.Thread(target=write, args=("y", keys[::-1]))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert sorted(runs.values()) == [1, 2]
    with sessions() as session:
        assert [sorted(text) for text in session.scalars(sa.select(Collection.description))] == [["x", "y"]] * 2


@pytest.mark.parametrize("code", [psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure])
def test_a_transaction_that_always_deadlocks_raises_database_busy_after_a_few_retries(
    sessions: Sessions, keys: list[UUID], code: type[psycopg.Error], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(db_session.time, "sleep", waits.append)

    def do(session: Any) -> None:
        _append(session, keys[0], "x")
        session.execute(sa.text(f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{code.sqlstate}'; END $$"))

    with pytest.raises(DatabaseBusy) as caught:
        run_transaction(sessions, do)
    assert (caught.value.http_status, caught.value.retryable, caught.value.detail["retry_after"]) == (503, True, 1)
    assert 1 <= len(waits) <= 10
    assert all(0 <= wait < 1 for wait in waits)
    with sessions() as session:
        assert set(session.scalars(sa.select(Collection.description))) == {""}


def test_other_errors_are_not_retried(sessions: Sessions) -> None:
    runs: list[str] = []

    def refuse(_: Any) -> None:
        runs.append("refuse")
        raise Conflict("so it is")

    def divide(session: Any) -> None:
        runs.append("divide")
        session.execute(sa.text("SELECT 1/0"))

    with pytest.raises(Conflict):
        run_transaction(sessions, refuse)
    with pytest.raises(sa.exc.DataError):
        run_transaction(sessions, divide)
    assert runs == ["refuse", "divide"]


def test_the_result_is_returned_and_committed(sessions: Sessions, keys: list[UUID]) -> None:
    def do(session: Any) -> str:
        _append(session, keys[0], "x")
        return "done"

    assert run_transaction(sessions, do) == "done"
    with sessions() as session:
        assert session.get_one(Collection, keys[0]).description == "x"
