"""Paused queues. A pause is a row in PostgreSQL that every claim checks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.operations import PausedQueue
from retllm.db.tables import User


@dataclass(frozen=True)
class Pause:
    """Why a queue is paused; ``by`` is None if that account was deleted."""

    queue: str
    since: datetime
    by: str | None
    reason: str


def paused(session: Session) -> dict[str, Pause]:
    """Return the paused queues by name."""
    query = sa.select(PausedQueue, User.name).outerjoin(User, User.id == PausedQueue.user_id)
    return {row.queue: Pause(row.queue, row.created_at, by, row.reason) for row, by in session.execute(query)}


def is_paused(session: Session, queue: str) -> bool:
    """Return whether ``queue`` is paused."""
    return session.scalar(sa.select(PausedQueue.queue).where(PausedQueue.queue == queue)) is not None
