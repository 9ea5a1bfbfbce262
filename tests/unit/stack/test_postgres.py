"""The embedded PostgreSQL, and the errors for unusable servers."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from retllm.errors import StackError
from retllm.settings import Settings
from retllm.stack import LocalStack, postgres
from retllm.stack.network import choose_port

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "given",
    [
        "postgres://u:p%40w@db.example:5433/name?sslmode=require",
        "postgresql://u:p%40w@db.example:5433/name?sslmode=require",
        "postgresql+psycopg2://u:p%40w@db.example:5433/name?sslmode=require",
        " postgresql+psycopg://u:p%40w@db.example:5433/name?sslmode=require\n",
    ],
)
def test_every_spelling_of_a_url_is_normalised_to_the_psycopg_driver(given: str) -> None:
    assert postgres.normalise_url(given) == "postgresql+psycopg://u:p%40w@db.example:5433/name?sslmode=require"


@pytest.mark.parametrize("given", ["mysql://u:secret@h/n", "nonsense", "", "postgresql://h:port/n", "redis://h:1/0"])
def test_an_invalid_postgres_url_is_rejected_without_revealing_its_password(given: str) -> None:
    with pytest.raises(StackError, match="DATABASE_URL is not a PostgreSQL URL") as caught:
        postgres.normalise_url(given)
    assert "secret" not in caught.value.message


def test_an_unreachable_postgres_server_gives_a_one_sentence_error_without_the_password() -> None:
    port = choose_port("127.0.0.1", 0)
    with pytest.raises(StackError) as caught:
        postgres.check(f"postgres://u:secret@127.0.0.1:{port}/name")
    assert caught.value.message == (
        f"PostgreSQL at postgresql://u:***@127.0.0.1:{port}/name can't be reached (Connection refused): start that "
        "server, or correct DATABASE_URL, or unset it to let `retllm up` run its own server."
    )


def test_the_error_names_a_missing_database(servers: LocalStack) -> None:
    url = sa.make_url(servers.database_url).set(database="nobody").render_as_string(hide_password=False)
    with pytest.raises(StackError, match='can\'t be reached \\(database "nobody" does not exist\\)'):
        postgres.check(url)


@pytest.fixture
def other_database(servers: LocalStack) -> Iterator[str]:
    """The URL of an empty database whose extensions a test may change."""
    name = f"other_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(servers.database_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield sa.make_url(servers.database_url).set(database=name).render_as_string(hide_password=False)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def look_for_extensions_in(url: str, folder: Path) -> None:
    """Let the server search extensions of this database in `folder` only."""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET extension_control_path = '{folder}'")


def test_a_server_with_pgvector_is_described(servers: LocalStack) -> None:
    assert postgres.check(servers.database_url) == f"PostgreSQL 18.4 with pgvector {postgres.shipped_pgvector()}"


def test_a_server_without_pgvector_gives_a_one_sentence_error(other_database: str, servers: LocalStack) -> None:
    look_for_extensions_in(other_database, servers.home / "no-such-folder")
    with pytest.raises(StackError) as caught:
        postgres.check(other_database)
    assert (
        "has no pgvector: install pgvector 0.8.4 or newer on that server, or unset DATABASE_URL" in caught.value.message
    )
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("version", ["0.7.4", "0.8.0", "0.8.3"])
def test_an_old_pgvector_gives_a_one_sentence_error(other_database: str, servers: LocalStack, version: str) -> None:
    folder = servers.home / f"old-{uuid.uuid4().hex}" / "extension"
    folder.mkdir(parents=True)
    (folder / "vector.control").write_text(f"comment = 'old'\ndefault_version = '{version}'\n")
    look_for_extensions_in(other_database, folder.parent)
    with pytest.raises(StackError) as caught:
        postgres.check(other_database)
    assert caught.value.message.endswith(f" is {version}: install pgvector 0.8.4 or newer on that server.")


def test_an_outdated_extension_gives_an_error_with_the_command_to_update_it(other_database: str) -> None:
    with psycopg.connect(other_database.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
        connection.execute("UPDATE pg_extension SET extversion = '0.7.0' WHERE extname = 'vector'")
    with pytest.raises(StackError, match=r"pgvector is 0\.7\.0 in the database .*: run ALTER EXTENSION vector UPDATE"):
        postgres.check(other_database)


def test_the_embedded_server_listens_on_no_network_address(servers: LocalStack) -> None:
    with psycopg.connect(servers.database_url.replace("+psycopg", "")) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
        assert connection.execute("SHOW max_connections").fetchone() == ("200",)
        assert connection.execute("SHOW TimeZone").fetchone() == ("UTC",)
    assert stat.S_IMODE((servers.home / "postgres").stat().st_mode) == 0o700


def embedded(home: Path) -> LocalStack:
    return LocalStack(Settings(home=home, database_url=None, redis_url=None), parts={"postgres"}, durable=False)


def test_a_restart_finds_the_data_even_if_the_path_is_too_long_for_a_socket(tmp_path: Path) -> None:
    home = tmp_path / ("long-" * 20) / "home"
    with embedded(home) as stack, psycopg.connect(stack.database_url.replace("+psycopg", "")) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        connection.commit()
    with embedded(home) as stack, psycopg.connect(stack.database_url.replace("+psycopg", "")) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
        sockets = Path(str(sa.make_url(stack.database_url).query["host"]))
        assert sockets.exists()
        assert home not in sockets.parents
    assert not sockets.exists()


def test_a_lock_file_with_a_reused_process_id_does_not_prevent_the_start(tmp_path: Path) -> None:
    """As in a container, where process ids start again."""
    with embedded(tmp_path / "home"):
        pass
    lock = tmp_path / "home" / "postgres" / "postmaster.pid"
    lock.write_text(f"{os.getpid()}\n{lock.parent}\n0\n5432\n\n\n\n")
    with embedded(tmp_path / "home") as stack:
        assert postgres.check(stack.database_url)


def test_data_of_another_version_is_rejected_and_kept(tmp_path: Path) -> None:
    data = tmp_path / "home" / "postgres"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("16\n")
    with pytest.raises(StackError, match="contains data of PostgreSQL 16 and this server is version 18: move"):
        embedded(tmp_path / "home").start()
    assert (data / "PG_VERSION").read_text() == "16\n"


def test_an_interrupted_first_start_does_not_break_the_next_one(tmp_path: Path) -> None:
    half = tmp_path / "home" / "postgres.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    with embedded(tmp_path / "home") as stack:
        assert postgres.check(stack.database_url)
    assert not half.exists()
