"""Connections to the database: how many a process opens, and what becomes of idle ones."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
import sqlalchemy as sa

from retllm.db.session import make_engine, sessions_of
from retllm.settings import Settings


def test_a_thread_that_needs_one_more_connection_than_there_may_be_waits_for_one(fresh_database: str) -> None:
    settings = Settings(database_url=fresh_database, database_connections=3)
    # what is kept open is no more than that either
    engine = sessions_of(settings, pool_size=8).kw["bind"]
    held = [engine.connect() for _ in range(3)]
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(engine.connect)
        assert not wait([waiting], 0.2).done
        held.pop().close()
        held.append(waiting.result(60))
    for connection in held:
        connection.close()
    engine.dispose()


@pytest.mark.parametrize("rows", [1, 5])
def test_an_idle_transaction_is_ended_whatever_its_last_statement_was(fresh_database: str, rows: int) -> None:
    engine = make_engine(fresh_database, idle_seconds=0.5)
    watching = make_engine(fresh_database).execution_options(isolation_level="AUTOCOMMIT")
    there = sa.text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid")
    with engine.connect() as idle, watching.connect() as watcher:
        pid = idle.scalar(sa.text("SELECT pg_backend_pid()"))
        idle.execute(sa.text("CREATE TEMP TABLE numbers (number integer)"))
        idle.execute(sa.text("INSERT INTO numbers VALUES (:number)"), [{"number": n} for n in range(rows)])
        deadline = time.monotonic() + 60
        while watcher.scalar(there, {"pid": pid}):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        idle.invalidate()
    engine.dispose()
    watching.dispose()
    engine.dispose()
    watching.dispose()
