"""Answers that take long, or wait for the database, do not keep the server from serving others.

An account has few long answers at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager

import httpx
import pytest
import sqlalchemy as sa
from tests.functional.serving import Server, serving

from retllm.db.session import make_sessions, transaction
from retllm.identity import accounts, tokens
from retllm.identity.actor import Actor
from retllm.settings import Settings
from retllm_web.http import long_answers

# fewer than an account sends exports at a time
THREADS = 4
SENT = 3 * THREADS


@pytest.fixture(scope="module")
def server(database_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with few threads, whose clients may be slower than any test."""
    home = tmp_path_factory.mktemp("exports")
    with serving(database_url, redis_url, home, client_seconds=3600, web_threads=THREADS) as running:
        yield running


@pytest.fixture(scope="module")
def another(server: Server, database_url: str) -> httpx.Client:
    """A client of another account."""
    sessions = make_sessions(database_url)
    with transaction(sessions) as session:
        user = accounts.create_user(session, f"other-{os.urandom(4).hex()}", "a long password")
        key = tokens.token_key(Settings(home=server.home))
        _, token = tokens.issue(session, key, Actor.unlimited(user), "other")
    sessions.kw["bind"].dispose()
    return httpx.Client(base_url=f"{server.address}/api/v1", headers={"Authorization": f"Bearer {token}"}, timeout=120)


@contextmanager
def _without(table: str, database_url: str) -> Iterator[None]:
    """Keep everybody from reading a table inside the context."""
    sessions = make_sessions(database_url)
    with transaction(sessions) as session:
        session.execute(sa.text(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
        yield
    sessions.kw["bind"].dispose()


def _export(server: Server) -> httpx.Response:
    with server.client() as client:
        return client.get("/jobs/export")


def test_health_checks_are_answered_while_all_request_slots_are_in_use(server: Server, database_url: str) -> None:
    def jobs() -> httpx.Response:
        with server.client() as client:
            return client.get("/jobs")

    with ThreadPoolExecutor(2 * THREADS) as threads:
        with _without("jobs", database_url):
            waiting = [threads.submit(jobs) for _ in range(2 * THREADS)]
            for path in ("/healthz", "/readyz") * THREADS:
                assert httpx.get(f"{server.address}{path}", timeout=120).status_code == 200
            assert not any(one.done() for one in waiting)
        assert [one.result().status_code for one in waiting] == [200] * len(waiting)


def test_others_are_served_while_an_account_asks_for_more_exports_than_there_are_threads(
    server: Server, another: httpx.Client, database_url: str
) -> None:
    most = long_answers.exports_at_once(THREADS)
    own = (most + 1) // 2
    with ThreadPoolExecutor(SENT) as threads:
        with _without("jobs", database_url):
            exports = [threads.submit(_export, server) for _ in range(SENT)]
            refused = [one.result() for _, one in zip(range(SENT - own), as_completed(exports), strict=False)]
            assert {answer.status_code for answer in refused} == {503}
            assert all(int(answer.headers["Retry-After"]) > 0 for answer in refused)
            assert {answer.json()["error"]["code"] for answer in refused} == {"busy"}
            # one that is not served would block these
            for _ in range(2 * THREADS):
                assert httpx.get(f"{server.address}/readyz", timeout=120).status_code == 200
                assert another.get("/me").status_code == 200
            assert sum(not export.done() for export in exports) == own
            # places are left for another account
            theirs = threads.submit(another.get, "/jobs/export")
        assert [answer.status_code for answer in (theirs.result(), *(e.result() for e in exports))].count(
            200
        ) == own + 1
    # all places are free again
    assert [_export(server).status_code for _ in range(2 * most)] == [200] * 2 * most


def test_others_are_served_while_an_account_compares_items_with_costly_filters(
    server: Server, another: httpx.Client, database_url: str
) -> None:
    collection = server.collection("Costly filters")

    def compare() -> httpx.Response:
        with server.client() as client:
            return client.get(f"/collections/{collection}/items", params={"filter": "name ~ x"})

    with ThreadPoolExecutor(SENT) as threads:
        with _without("items", database_url):
            sent = [threads.submit(compare) for _ in range(SENT)]
            for _, one in zip(range(SENT - THREADS // 2), as_completed(sent), strict=False):
                assert one.result().status_code == 503
                assert int(one.result().headers["Retry-After"]) > 0
            for _ in range(2 * THREADS):
                assert another.get("/me").status_code == 200
        # those with a place, unless the items were away for too long
        assert {one.result().status_code for one in sent} - {503} <= {200, 422}
    assert compare().status_code == 200
