"""Engines and sessions."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self, TypeVar

import psycopg
import sqlalchemy as sa
import structlog
from sqlalchemy.orm import Session, sessionmaker

from retllm.errors import DatabaseBusy, StackError
from retllm.settings import Settings

log = structlog.get_logger(__name__)

Sessions = sessionmaker[Session]
Result = TypeVar("Result")

# deadlock_detected and serialization_failure: the server has aborted the transaction, which can be retried
_RETRYABLE = ("40P01", "40001")
_LOCK_NOT_AVAILABLE = "55P03"
_TRIES = 5
# exponential backoff with full jitter
_FIRST_WAIT_SECONDS = 0.05


def driver_url(url: str) -> str:
    """Return ``url`` with the psycopg driver, for any of the usual URL schemes."""
    for prefix in ("postgresql://", "postgres://"):
        if url.startswith(prefix):
            return "postgresql+psycopg://" + url.removeprefix(prefix)
    return url


# detect a dead connection within seconds instead of two hours
_KEEPALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 25_000}


# the option of an engine that has the one without the pooler
_DIRECT = "direct_engine"


class _Cursor(psycopg.Cursor[Any]):
    """Sends many statements one after the other, not in a pipeline.

    After the messages of a pipeline the server does not measure how long the transaction is idle: between them, and
    after the Flush at its end. A process that hangs or loses its connection there would keep its locks for hours.
    """

    _of_all: int | None = None

    @property
    def rowcount(self) -> int:
        """The number of rows of the last statement, or of all of ``executemany``."""
        return super().rowcount if self._of_all is None else self._of_all

    def execute(self, query: Any, params: Any = None, **options: Any) -> Self:
        """Execute one statement."""
        self._of_all = None
        return super().execute(query, params, **options)

    def executemany(self, query: Any, params_seq: Iterable[Any], *, returning: bool = False) -> None:
        """Execute a statement with each of these parameters; ``returning`` is not supported."""
        if returning:
            raise psycopg.NotSupportedError("Return rows from one statement that has them all.")
        total = 0
        for parameters in params_seq:
            total += max(0, self.execute(query, parameters, prepare=True).rowcount)
        self._of_all = total


def make_engine(
    url: str,
    *,
    pool_size: int = 5,
    most: int | None = None,
    idle_seconds: float = 300,
    direct_url: str | None = None,
) -> sa.Engine:
    """Return an engine that checks connections before use, so that a restart of the server causes no errors.

    The server aborts transactions that are idle for ``idle_seconds``, so that a process that hangs or lost its
    connection does not keep its locks.

    Args:
        pool_size: number of connections that are kept open.
        most: maximum number of open connections; twice ``pool_size`` unless given.
        direct_url: the server itself, if ``url`` is that of a pooler that lends a connection for each transaction. Then
            nothing is set or prepared for longer than a transaction; see ``direct_engine``.
    """
    most = most or 2 * pool_size
    kept = min(pool_size, most)
    settings = {"timezone": "UTC", "idle_in_transaction_session_timeout": f"{idle_seconds * 1000:.0f}"}
    arguments: dict[str, Any] = {"connect_timeout": 10, "cursor_factory": _Cursor, **_KEEPALIVE}
    if direct_url is None:
        arguments["options"] = " ".join(f"-c {name}={value}" for name, value in settings.items())
    else:
        arguments["prepare_threshold"] = None
    pool = {"pool_pre_ping": True, "pool_size": kept, "max_overflow": most - kept}
    engine = sa.create_engine(driver_url(url), connect_args=arguments, **pool)
    # one statement for many rows, since the cursor sends each statement alone
    engine.dialect.use_insertmanyvalues_wo_returning = True
    if direct_url is not None:
        statements = "; ".join(f"SET LOCAL {name} = '{value}'" for name, value in settings.items())
        sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(statements))
        engine.update_execution_options(**{_DIRECT: make_engine(direct_url, pool_size=1, idle_seconds=idle_seconds)})
    return engine


def direct_engine(sessions: Sessions) -> sa.Engine:
    """Return the engine for work that needs a connection to the server itself: settings and locks of a session."""
    engine: sa.Engine = sessions.kw["bind"]
    direct: sa.Engine = engine.get_execution_options().get(_DIRECT, engine)
    return direct


def make_sessions(url: str | None, **options: Any) -> Sessions:
    """Return a session factory for ``url``; see ``make_engine`` for the options.

    Raises:
        StackError: ``url`` is empty.
    """
    if not url:
        raise StackError(
            "No database: set DATABASE_URL to a PostgreSQL server with pgvector, or run this under `retllm up`."
        )
    return sessionmaker(make_engine(url, **options), expire_on_commit=False)


def sessions_of(settings: Settings, *, pool_size: int = 5, idle_seconds: float = 300) -> Sessions:
    """Return the session factory of a process of the platform: a web server, dispatcher or worker.

    Raises:
        StackError: no database is configured.
    """
    return make_sessions(
        settings.database_url,
        pool_size=pool_size,
        most=settings.database_connections,
        idle_seconds=idle_seconds,
        direct_url=settings.direct_url,
    )


@contextmanager
def transaction(sessions: Sessions) -> Iterator[Session]:
    """Run one transaction: commit at the end, roll back on any error."""
    with sessions() as session, session.begin():
        yield session


@contextmanager
def snapshot(sessions: Sessions) -> Iterator[Session]:
    """Run one transaction whose queries all see the state at the time of the first one, such as counts and rows."""
    with transaction(sessions) as session:
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        yield session


def run_transaction(sessions: Sessions, do: Callable[[Session], Result]) -> Result:
    """Call ``do`` in a transaction, and retry in a new one after a deadlock or serialization failure.

    Rows are locked in one order (:mod:`retllm.db.locks`), so that this is rare.

    Args:
        do: has no effect outside the session that it gets.

    Raises:
        DatabaseBusy: every try failed this way.
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
        time.sleep(random.uniform(0, _FIRST_WAIT_SECONDS * 2**number))  # noqa: S311 - not a secret
    raise AssertionError("unreachable")


def was_locked(error: sa.exc.DBAPIError) -> bool:
    """Return whether the server ended a statement that had waited for a lock for as long as it may."""
    return getattr(error.orig, "sqlstate", None) == _LOCK_NOT_AVAILABLE


def was_undone(error: sa.exc.DBAPIError) -> bool:
    """Return whether the server aborted the transaction because of another one, so that it can be retried."""
    return getattr(error.orig, "sqlstate", None) in _RETRYABLE
