"""Engines and sessions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from retllm.errors import StackError

Sessions = sessionmaker[Session]


def driver_url(url: str) -> str:
    """``url`` with the psycopg driver named, whichever of the usual spellings it came in."""
    for prefix in ("postgresql://", "postgres://"):
        if url.startswith(prefix):
            return "postgresql+psycopg://" + url.removeprefix(prefix)
    return url


# a server or a path that is gone without a word is noticed after so many seconds, not after two hours
_KEEPALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 25_000}


def make_engine(url: str, *, pool_size: int = 5, idle_seconds: float = 300) -> sa.Engine:
    """An engine whose connections are checked before use, so that a restarted server is not noticed.

    The server ends a transaction whose process says nothing for ``idle_seconds``: a process that stands still, or was
    cut off, does not keep its locks.
    """
    return sa.create_engine(
        driver_url(url),
        pool_pre_ping=True,
        pool_size=pool_size,
        max_overflow=pool_size,
        connect_args={
            "connect_timeout": 10,
            "options": f"-c timezone=UTC -c idle_in_transaction_session_timeout={idle_seconds * 1000:.0f}",
            **_KEEPALIVE,
        },
    )


def make_sessions(url: str | None, *, pool_size: int = 5, idle_seconds: float = 300) -> Sessions:
    """A session factory for ``url``; see ``make_engine``.

    Raises:
        StackError: no database is named.
    """
    if not url:
        raise StackError(
            "No database: set DATABASE_URL to a PostgreSQL server with pgvector, or run this under `retllm up`."
        )
    return sessionmaker(make_engine(url, pool_size=pool_size, idle_seconds=idle_seconds), expire_on_commit=False)


@contextmanager
def transaction(sessions: Sessions) -> Iterator[Session]:
    """One transaction: committed at the end, rolled back on any error."""
    with sessions() as session, session.begin():
        yield session
