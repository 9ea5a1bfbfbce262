"""The doctor names unserved and paused queues and says what to do."""

from __future__ import annotations

from pathlib import Path

from retllm.cli import checks
from retllm.cli.check_workers import inspect_workers
from retllm.db.session import make_sessions, transaction
from retllm.identity import accounts
from retllm.operations import queues, workers
from retllm.operations.workers import WorkerReport
from retllm.queue.routing import ONE_SCORER, Routing
from retllm.settings import Settings
from retllm.stack import LocalStack


def _report(url: str, *served: str) -> None:
    sessions = make_sessions(url)
    with transaction(sessions) as session:
        workers.record(session, WorkerReport(f"host:{'+'.join(served)}", served, "cpu", "0"))
    sessions.kw["bind"].dispose()


def test_unserved_queues_are_named_until_a_worker_serves_them(fresh_database: str, tmp_path: Path) -> None:
    found = checks.check_workers(Settings(database_url=fresh_database, home=tmp_path), None)
    assert (found.state, found.message) == (
        "warning",
        "0 workers are alive. No live worker serves the queues query, media, embed, score.",
    )
    assert "Procfile" in found.advice
    _report(fresh_database, "query", "media", "embed")
    assert "serves the queue score." in inspect_workers(fresh_database, ONE_SCORER)[0]
    _report(fresh_database, "score")
    found = checks.check_workers(Settings(database_url=fresh_database, home=tmp_path), None)
    assert (found.state, found.advice) == ("ok", "")
    assert found.message == "2 workers are alive; every queue is served and none is paused."


def test_a_paused_queue_is_shown_with_the_user_and_the_reason(fresh_database: str) -> None:
    _report(fresh_database, *ONE_SCORER.queues)
    sessions = make_sessions(fresh_database)
    with transaction(sessions) as session:
        user = accounts.create_user(session, "ada", "a-long-password")
        queues.pause(session, ONE_SCORER, user, "embed", "a new GPU")
    sessions.kw["bind"].dispose()
    message, advice = inspect_workers(fresh_database, ONE_SCORER)
    assert message.startswith("1 worker is alive. The queue embed is paused by ada since 2")
    assert message.endswith("(a new GPU).")
    assert advice == "Resume paused queues on the page Workers and queues of the dashboard."


def test_an_unusable_database_gives_advice_instead_of_worker_status(servers: LocalStack, tmp_path: Path) -> None:
    assert inspect_workers(servers.database_url, ONE_SCORER) == (
        "The database has an old schema or none.",
        "Run `retllm migrate`.",
    )
    for url in ("postgresql://nobody@127.0.0.1:1/none", "no address"):
        message, advice = inspect_workers(url, ONE_SCORER)
        assert "can't be read" in message
        assert "postgres" in advice
    assert checks.check_workers(Settings(database_url=None, home=tmp_path), None).state == "ok"


def test_the_queue_of_an_extra_scorer_needs_a_worker_of_its_own(fresh_database: str) -> None:
    _report(fresh_database, *ONE_SCORER.queues)
    message, advice = inspect_workers(fresh_database, Routing(("other",)))
    assert "No live worker serves the queue score:other." in message
    assert advice.startswith("Start a worker")
