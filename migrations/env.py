"""Alembic environment: one process migrates at a time, and locks have short timeouts."""

from __future__ import annotations

import os

import sqlalchemy as sa
from alembic import context

from retllm.db.schema import metadata
from retllm.db.session import driver_url

_ADVISORY_LOCK = 0x7265746D


def _url() -> str:
    url = context.config.get_main_option("sqlalchemy.url") or os.environ.get("DATABASE_URL")
    if not url:
        raise SystemExit("Set DATABASE_URL to the PostgreSQL server to migrate.")
    return driver_url(url)


def include_object(item: object, name: str | None, kind: str, reflected: bool, compare_to: object) -> bool:
    """Exclude HNSW indexes, which index jobs build for large collections."""
    return not (kind == "index" and (name or "").startswith("ix_embeddings_hnsw_"))


def _configure(connection: sa.Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata, include_object=include_object)


def run() -> None:
    given = context.config.attributes.get("connection")
    if given is not None:
        _configure(given)
        with context.begin_transaction():
            context.run_migrations()
        return
    engine = sa.create_engine(_url(), poolclass=sa.pool.NullPool, connect_args={"connect_timeout": 10})
    with engine.connect() as connection:
        connection.execute(sa.text("SET lock_timeout = '5s'"))
        connection.execute(sa.text("SET statement_timeout = '300s'"))
        connection.commit()
        _configure(connection)
        with context.begin_transaction():
            # wait for another process that migrates; afterwards there is nothing left to do
            connection.execute(sa.text("SET LOCAL lock_timeout = '60s'"))
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
            connection.execute(sa.text("SET LOCAL lock_timeout = '5s'"))
            context.run_migrations()
    engine.dispose()


run()
