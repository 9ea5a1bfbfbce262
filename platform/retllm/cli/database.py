"""The database of this machine, for administrative commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.session import Sessions, make_sessions, transaction
from retllm.errors import StackError
from retllm.identity import audit
from retllm.identity.audit import Action
from retllm.settings import Settings
from retllm.stack.postgres import EmbeddedPostgres


def database_url(settings: Settings) -> str:
    """Return the URL of the server itself, else that of the database that `retllm up` runs in RETLLM_HOME."""
    return settings.direct_url or settings.database_url or EmbeddedPostgres(settings.home_path).url


@contextmanager
def administration() -> Iterator[Session]:
    """Open a transaction on the database of this machine.

    Raises:
        StackError: it can't be reached.
    """
    with database(Settings()) as sessions, transaction(sessions) as session:
        yield session


@contextmanager
def database(settings: Settings) -> Iterator[Sessions]:
    """Open the database of this machine.

    Raises:
        StackError: it can't be reached.
    """
    sessions = make_sessions(database_url(settings), pool_size=1)
    try:
        yield sessions
    except sa.exc.OperationalError as error:
        where = "DATABASE_URL" if settings.database_url else f"the stack in {settings.home_path}"
        raise StackError(
            f"The database of {where} can't be reached: start it (`retllm up`), or set DATABASE_URL."
        ) from error
    finally:
        sessions.kw["bind"].dispose()


def note(session: Session, action: Action, target: str, target_id: UUID, **detail: Any) -> None:
    """Record an action of the command line in the audit log, without an account."""
    audit.record(session, None, action, target=target, target_id=target_id, address="command line", **detail)
