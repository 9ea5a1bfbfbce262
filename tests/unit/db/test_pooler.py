"""Nothing breaks when a pooler lends each transaction a connection of the server (PgBouncer in transaction mode)."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.poolers import PROGRAM, pooler
from tests.unit.job_world import context, world
from tests.unit.stand_ins import FakeScorer, index, run, search, view_of

from retllm.db.enums import JobState
from retllm.db.session import Sessions, make_sessions, snapshot, transaction
from retllm.db.tables import Collection
from retllm.db.vectors import VectorIndex, index_name
from retllm.indexing import vector_indexes
from retllm.queue.audit import violations
from retllm.queue.worker import WorkerContext
from retllm.uploads.removal import remove_deleted

__all__ = ["context", "world"]

CONNECTIONS = 2


@pytest.fixture(scope="module")
def server_of_pooler(template_database: str) -> Iterator[str]:
    if PROGRAM is None:
        pytest.skip("PgBouncer is not installed")
    with pooler(template_database, connections=CONNECTIONS) as address:
        yield address


@pytest.fixture
def sessions(server_of_pooler: str, fresh_database: str) -> Iterator[Sessions]:
    """Sessions of ``fresh_database`` through the pooler."""
    database = sa.make_url(fresh_database).database
    url = sa.make_url(server_of_pooler).set(database=database).render_as_string(hide_password=False)
    made = make_sessions(url, pool_size=8, idle_seconds=7, direct_url=fresh_database)
    yield made
    made.kw["bind"].dispose()


def test_settings_of_a_transaction_do_not_reach_the_next_one_on_the_connection(sessions: Sessions) -> None:
    def shown(session: sa.orm.Session) -> tuple[str, str, int]:
        names = ("timezone", "idle_in_transaction_session_timeout")
        timezone, idle = (session.scalar(sa.text(f"SHOW {name}")) for name in names)
        return timezone, idle, session.scalar(sa.text("SELECT pg_backend_pid()"))

    with transaction(sessions) as session:
        assert shown(session)[:2] == ("UTC", "7s")
    with snapshot(sessions) as session:
        assert shown(session)[:2] == ("UTC", "7s")
        assert session.scalar(sa.text("SHOW transaction_isolation")) == "repeatable read"
    url = sessions.kw["bind"].url.render_as_string(hide_password=False)
    plain = sa.create_engine(url, connect_args={"prepare_threshold": None})
    with plain.connect() as connection:
        assert connection.scalar(sa.text("SHOW idle_in_transaction_session_timeout")) == "0"
    plain.dispose()


def test_more_threads_than_connections_repeat_the_same_statements(sessions: Sessions) -> None:
    together = threading.Barrier(8, timeout=60)

    def ask(number: int) -> list[int]:
        together.wait()
        answers = []
        for _ in range(20):
            with transaction(sessions) as session:
                answers.append(session.scalar(sa.select(sa.literal(number) + sa.func.count(Collection.id))))
        return answers

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, range(8))) == [[number] * 20 for number in range(8)]


def test_an_index_is_built_on_a_connection_that_nobody_else_is_lent(sessions: Sessions) -> None:
    name = "client_connection_check_interval"
    with vector_indexes._alone(sessions) as connection:
        assert connection is not None
        assert connection.scalar(sa.text(f"SHOW {name}")) != "0"
        with sessions() as one, sessions() as another:
            # all that the pooler has
            assert [session.scalar(sa.text(f"SHOW {name}")) for session in (one, another)] == ["0"] * CONNECTIONS
        with vector_indexes._alone(sessions) as second:
            assert second is None


def test_a_collection_is_indexed_searched_and_removed(
    sessions: Sessions, context: WorkerContext, world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_indexes, "EXACT_LIMIT", 8)
    monkeypatch.setattr(world, "sessions", sessions)
    context = dataclasses.replace(context, sessions=sessions)
    world.add_texts(*(f"word {n}" for n in range(12)), "the needle")
    job_id = index(context, world)
    assert world.job(job_id).state is JobState.SUCCEEDED
    with sessions() as session:
        (built,) = session.scalars(sa.select(VectorIndex))
        assert session.scalar(sa.select(sa.func.to_regclass(index_name(built.id)))) is not None

    found = search(world, text="needle", k=3)
    run(context, world, found, FakeScorer(lambda content: (0.5, 0.1)))
    view = view_of(world, found)
    assert view.candidates[0].text == "the needle"
    assert len(view.candidates) == 3
    assert violations(sessions, context.storage, quiet=True) == []

    with transaction(sessions) as session:
        session.execute(sa.update(Collection).values(deleted_at=sa.func.now()))
    remove_deleted(sessions, context.storage)
    assert vector_indexes.drop_unused(sessions) == 1
    with sessions() as session:
        assert session.scalar(sa.text("SELECT count(*) FROM collections")) == 0
        assert session.scalar(sa.select(sa.func.to_regclass(index_name(built.id)))) is None
