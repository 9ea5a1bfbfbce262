"""Real servers for every test that wants one: one embedded stack a session, a database of its own for who asks."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from retllm.job_kinds import register_handlers
from retllm.settings import Settings
from retllm.stack import LocalStack

# before anything imports torch, here and in the processes that tests start: on the tests' tiny models a second
# thread gains nothing, and on busy cores the threads wait for each other many times longer than they work
os.environ.setdefault("OMP_NUM_THREADS", "1")

register_handlers()

TEMPLATE = "retllm_template"


@pytest.fixture(scope="session")
def servers() -> Iterator[LocalStack]:
    """An embedded PostgreSQL and Redis in a folder of their own, for the whole session."""
    with tempfile.TemporaryDirectory(prefix="retllm-") as folder:
        settings = Settings(home=Path(folder) / "home", database_url=None, redis_url=None)
        with LocalStack(settings, parts={"postgres", "redis"}, durable=False) as stack:
            yield stack


def _named(url: str, database: str) -> str:
    return sa.make_url(url).set(database=database).render_as_string(hide_password=False)


def _administer(url: str, *statements: str) -> None:
    plain = _named(url, "postgres").replace("postgresql+psycopg://", "postgresql://", 1)
    with psycopg.connect(plain, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.fixture(scope="session")
def template_database(servers: LocalStack) -> str:
    """The name of a database with the newest schema, from which others are copied in a fraction of a second."""
    from retllm.db.migrate import upgrade

    _administer(servers.database_url, f"CREATE DATABASE {TEMPLATE}")
    upgrade(_named(servers.database_url, TEMPLATE))
    return TEMPLATE


def _copy(servers: LocalStack, template: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    _administer(servers.database_url, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield _named(servers.database_url, name)
    _administer(servers.database_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def database_url(servers: LocalStack, template_database: str) -> Iterator[str]:
    """A migrated database that the tests of this session share."""
    yield from _copy(servers, template_database)


@pytest.fixture(scope="module")
def module_database(servers: LocalStack, template_database: str) -> Iterator[str]:
    """The address of a migrated database that the tests of one module share, empty at first."""
    yield from _copy(servers, template_database)


@pytest.fixture
def fresh_database(servers: LocalStack, template_database: str) -> Iterator[str]:
    """The address of a migrated database that this test has for itself, empty."""
    yield from _copy(servers, template_database)


@pytest.fixture(scope="session")
def redis_url(servers: LocalStack) -> str:
    """The address of a Redis server that the tests of this session share."""
    return servers.redis_url
