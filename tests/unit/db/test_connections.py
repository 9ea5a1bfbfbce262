"""A process opens as many connections as it may, and its threads wait for one of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait

from retllm.db.session import sessions_of
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
