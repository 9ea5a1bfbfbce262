"""The doctor compares what all processes may open with what the database server allows."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from retllm.cli import checks
from retllm.db.session import make_engine, make_sessions, transaction
from retllm.operations import workers
from retllm.operations.workers import WorkerReport
from retllm.settings import Settings
from retllm.stack.network import choose_port


def allowed(url: str) -> int:
    """How many connections the server leaves to accounts without privileges."""
    engine = make_engine(url)
    with engine.connect() as connection:
        names = ("max_connections", "superuser_reserved_connections", "reserved_connections")
        most, *reserved = (int(connection.scalar(sa.text(f"SHOW {name}")) or 0) for name in names)
    engine.dispose()
    return most - sum(reserved)


def found(url: str, home: Path, **values: object) -> tuple[str, str, str]:
    settings = Settings(database_url=url, home=home, **values)  # type: ignore[arg-type]
    (check,) = (one for one in checks.run_checks(settings) if one.name == "pool")
    return check.state, check.message, check.advice


def test_more_connections_than_the_server_allows_are_a_warning(fresh_database: str, tmp_path: Path) -> None:
    most = allowed(fresh_database)
    # three workers, a web server and a dispatcher
    state, message, _ = found(fresh_database, tmp_path, database_connections=most // 5)
    assert (state, message) == (
        "ok",
        f"3 workers, a web server and a dispatcher may open {most // 5 * 5} connections ({most // 5} each); "
        f"PostgreSQL allows {most}.",
    )
    state, message, advice = found(fresh_database, tmp_path, database_connections=most // 5 + 1)
    assert (state, f"and PostgreSQL allows {most}." in message) == ("warning", True)
    assert "RETLLM_DATABASE_CONNECTIONS" in advice


def test_the_workers_of_other_hosts_count(fresh_database: str, tmp_path: Path) -> None:
    sessions = make_sessions(fresh_database)
    with transaction(sessions) as session:
        for number in range(7):
            workers.record(session, WorkerReport(f"host:{number}", ["embed"], "cpu", "0"))
    sessions.kw["bind"].dispose()
    assert found(fresh_database, tmp_path)[1].startswith("7 workers, a web server and a dispatcher may open 90 ")


def test_behind_a_pooler_both_addresses_are_checked_and_the_pooler_bounds_the_number(
    fresh_database: str, tmp_path: Path
) -> None:
    both = {"database_direct_url": fresh_database, "database_connections": 1000}
    assert found(fresh_database, tmp_path, **both)[0] == "ok"
    nowhere = f"postgresql://u:secret-word@127.0.0.1:{choose_port('127.0.0.1', 0)}/name"
    settings = Settings(database_url=fresh_database, database_direct_url=nowhere, home=tmp_path)
    check = checks._guarded("postgres", lambda: checks.check_postgres(settings, None))
    assert check.state == "failed"
    assert "correct RETLLM_DATABASE_DIRECT_URL" in check.advice
    assert "secret-word" not in check.message


@pytest.mark.parametrize("direct", [None, "postgresql://db/direct"])
def test_no_address_of_a_pooler_is_used_with_a_server_of_one_s_own(direct: str | None) -> None:
    settings = Settings(database_url=None, database_direct_url=direct)
    assert settings.direct_url is None
