"""The check of `retllm doctor` for workers and queues, from their state in the database."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from retllm.db.session import make_engine, snapshot
from retllm.operations import workers
from retllm.operations.workers import WorkerStatus
from retllm.queue import pauses
from retllm.queue.pauses import Pause
from retllm.queue.routing import Routing

Finding = tuple[str, str]
"""The finding and the advice; the advice is empty if all is well."""

_UNREACHED = (
    "The workers and the work can't be read from the database.",
    "Fix what the check of postgres reports, and try again.",
)


def inspect_workers(database_url: str, routing: Routing) -> Finding:
    """Check the workers and queues."""
    (found,) = query_database(database_url, lambda session: [_inspect(session, routing)])
    return found


def query_database(database_url: str, query: Callable[[Session], list[Finding]]) -> list[Finding]:
    """Return the result of ``query``, or a finding that says why the database can't be queried."""
    try:
        engine = make_engine(database_url)
    except sa.exc.ArgumentError:
        return [_UNREACHED]
    try:
        with snapshot(sessionmaker(engine)) as session:
            return query(session)
    except sa.exc.ProgrammingError:
        return [("The database has an old schema or none.", "Run `retllm migrate`.")]
    except sa.exc.OperationalError:
        return [_UNREACHED]
    finally:
        engine.dispose()


def _inspect(session: Session, routing: Routing) -> Finding:
    live = sum(worker.state is WorkerStatus.ALIVE for worker in workers.every(session))
    unserved = workers.unserved(session, routing.queues)
    paused = list(pauses.paused(session).values())
    alive = "1 worker is alive" if live == 1 else f"{live} workers are alive"
    sentences = [f"{alive}.", *_missing(unserved), *map(_pause, paused)]
    advice = ["Start a worker for each unserved queue: use `retllm up`, or see the Procfile."] if unserved else []
    advice += ["Resume paused queues on the page Workers and queues of the dashboard."] if paused else []
    if not advice:
        sentences = [f"{alive}; every queue is served and none is paused."]
    return " ".join(sentences), " ".join(advice)


def _missing(unserved: list[str]) -> list[str]:
    if not unserved:
        return []
    return [f"No live worker serves {'the queue' if len(unserved) == 1 else 'the queues'} {', '.join(unserved)}."]


def _pause(pause: Pause) -> str:
    by = f" by {pause.by}" if pause.by else ""
    why = f" ({pause.reason})" if pause.reason else ""
    return f"The queue {pause.queue} is paused{by} since {pause.since:%Y-%m-%d %H:%M} UTC{why}."
