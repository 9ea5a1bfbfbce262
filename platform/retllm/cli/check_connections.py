"""The check of `retllm doctor` for the connections that all processes together may open to PostgreSQL."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.cli.check_workers import Finding, query_database
from retllm.db.operations import Worker
from retllm.operations.workers import is_alive
from retllm.settings import Settings

# one web server and one dispatcher; more of them are not known here
_OTHERS = 2
_RESERVED = ("superuser_reserved_connections", "reserved_connections")


def inspect_connections(database_url: str, settings: Settings) -> Finding:
    """Check that the server has as many connections as the processes of the platform may open."""
    (found,) = query_database(database_url, lambda session: [_inspect(session, settings)])
    return found


def _inspect(session: Session, settings: Settings) -> Finding:
    if settings.direct_url is not None:
        return "The connections go through a pooler, which bounds their number.", ""
    live = session.scalar(sa.select(sa.func.count()).select_from(Worker).where(is_alive())) or 0
    here = settings.media_workers + settings.embed_workers + settings.score_workers * len(settings.scorers)
    workers, each = max(live, here), settings.database_connections
    needed, allowed = (workers + _OTHERS) * each, _allowed(session)
    found = f"{workers} workers, a web server and a dispatcher may open {needed:,} connections ({each} each)"
    if needed <= allowed:
        return f"{found}; PostgreSQL allows {allowed:,}.", ""
    return (
        f"{found}, and PostgreSQL allows {allowed:,}.",
        "Raise max_connections of PostgreSQL, lower RETLLM_DATABASE_CONNECTIONS, or put PgBouncer before it.",
    )


def _allowed(session: Session) -> int:
    """Return how many connections accounts without privileges may open."""
    settings = sa.table("pg_settings", sa.column("name"), sa.column("setting"))
    names = ("max_connections", *_RESERVED)
    query = sa.select(settings.c.name, sa.cast(settings.c.setting, sa.Integer)).where(settings.c.name.in_(names))
    found: dict[str, int] = dict(iter(session.execute(query)))
    return found["max_connections"] - sum(found.get(name, 0) for name in _RESERVED)
