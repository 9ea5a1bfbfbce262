"""The trail of a unit: every attempt at it from its claim to its end, by the token that its effects carry.

``begin`` and ``end`` run in the transaction in which the unit itself changes.
"""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import AttemptOutcome
from retllm.db.tables import Attempt, Unit, new_id


def begin(session: Session, unit: Unit, worker: str) -> UUID:
    """An attempt at ``unit`` by ``worker`` begins; its token, which is new."""
    token = new_id()
    session.add(Attempt(token=token, unit_id=unit.id, number=unit.attempt, worker=worker))
    return token


def end(session: Session, token: UUID | None, outcome: AttemptOutcome, *, error: str | None = None) -> None:
    """The attempt with this token is over."""
    session.execute(
        sa.update(Attempt)
        .where(Attempt.token == token)
        .values(outcome=outcome, ended_at=sa.func.clock_timestamp(), error=error)
        .execution_options(synchronize_session=False)
    )
