"""The attempts of a unit, from claim to end. The token of an attempt marks the rows that it writes.

``begin`` and ``end`` run in the transaction that changes the unit.
"""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import AttemptOutcome
from retllm.db.jobs import Attempt, Unit
from retllm.db.tables import new_id


def begin(session: Session, unit: Unit, worker: str) -> UUID:
    """Start an attempt at ``unit`` by ``worker``; return its new token."""
    token = new_id()
    session.add(Attempt(token=token, unit_id=unit.id, number=unit.attempt, worker=worker))
    return token


def end(session: Session, token: UUID | None, outcome: AttemptOutcome, *, error: str | None = None) -> None:
    """End the attempt with this token."""
    session.execute(
        sa.update(Attempt)
        .where(Attempt.token == token)
        .values(outcome=outcome, ended_at=sa.func.clock_timestamp(), error=error)
        .execution_options(synchronize_session=False)
    )
