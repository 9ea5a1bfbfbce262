"""What `retllm doctor` says of workers and queues: what the database knows of them, in sentences."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.session import make_engine
from retllm.operations import queues, workers
from retllm.operations.workers import WorkerStatus
from retllm.queue import pauses
from retllm.queue.pauses import Pause

Finding = tuple[str, str]
"""What was found, and what to do about it; the second is empty if there is nothing to do."""

_UNREACHED = (
    "The database can't be asked for its workers and work.",
    "Mend what the check of postgres says, and look again.",
)


def look_at_workers(database_url: str) -> Finding:
    """What was found, and what to do about it; the second is empty if there is nothing to do."""
    (found,) = asked(database_url, lambda session: [_look(session)])
    return found


def asked(database_url: str, look: Callable[[Session], list[Finding]]) -> list[Finding]:
    """What ``look`` finds in the database, or why it can't be asked."""
    try:
        engine = make_engine(database_url)
    except sa.exc.ArgumentError:
        return [_UNREACHED]
    try:
        with Session(engine) as session:
            return look(session)
    except sa.exc.ProgrammingError:
        return [("The database has an older schema, or none.", "Run `retllm migrate`.")]
    except sa.exc.OperationalError:
        return [_UNREACHED]
    finally:
        engine.dispose()


def _look(session: Session) -> Finding:
    living = sum(one.standing is WorkerStatus.ALIVE for one in workers.every(session))
    unserved = workers.unserved(session, queues.QUEUES)
    paused = list(pauses.paused(session).values())
    alive = "1 worker is alive" if living == 1 else f"{living} workers are alive"
    told = [f"{alive}.", *_missing(unserved), *map(_pause, paused)]
    advice = ["Start a worker for what nobody serves: `retllm up`, or as the Procfile says."] if unserved else []
    advice += ["Resume what is paused on the page Workers of the dashboard."] if paused else []
    if not advice:
        told = [f"{alive}; every queue is served and none is paused."]
    return " ".join(told), " ".join(advice)


def _missing(unserved: list[str]) -> list[str]:
    if not unserved:
        return []
    return [f"No worker that lives serves {'the queue' if len(unserved) == 1 else 'the queues'} {', '.join(unserved)}."]


def _pause(pause: Pause) -> str:
    by = f" by {pause.by}" if pause.by else ""
    why = f" ({pause.reason})" if pause.reason else ""
    return f"The queue {pause.queue} is paused{by} since {pause.since:%Y-%m-%d %H:%M} UTC{why}."
