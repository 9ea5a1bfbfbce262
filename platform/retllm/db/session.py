"""Engines and sessions."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import sqlalchemy as sa
import structlog
from sqlalchemy.orm import Session, sessionmaker

from retllm.errors import DatabaseBusy, StackError

log = structlog.get_logger(__name__)

Sessions = sessionmaker[Session]
Result = TypeVar("Result")

# deadlock_detected and serialization_failure: the server has undone one of two transactions, which may be run again
_UNDONE = ("40P01", "40001")
_TRIES = 5
# each wait is a random share of twice the one before, so that the two do not meet again
_FIRST_WAIT_SECONDS = 0.05


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


def run_transaction(sessions: Sessions, do: Callable[[Session], Result]) -> Result:
    """Call ``do`` in one transaction, and again in a new one where the server undoes it for another's sake.

    Rows are locked in one order (:mod:`retllm.db.locks`), so that this happens rarely if at all.

    Args:
        do: has no effect outside the session that it is given.

    Raises:
        DatabaseBusy: the server has undone it each time.
    """
    for number in range(_TRIES):
        try:
            with transaction(sessions) as session:
                return do(session)
        except sa.exc.DBAPIError as error:
            if not was_undone(error):
                raise
            log.warning("transaction.undone", tries=number + 1, reason=str(error.orig).partition("\n")[0])
            if number + 1 == _TRIES:
                raise DatabaseBusy(retry_after=1) from error
        time.sleep(random.uniform(0, _FIRST_WAIT_SECONDS * 2**number))  # noqa: S311 - no secret hangs on it
    raise AssertionError("unreachable")


def was_undone(error: sa.exc.DBAPIError) -> bool:
    """Whether the server undid the transaction because of another one; it can be reached, and nothing was changed."""
    return getattr(error.orig, "sqlstate", None) in _UNDONE
