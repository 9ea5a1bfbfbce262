"""The trail of a unit: every attempt at it from its claim to its end, by the token that its effects carry.

``begin`` and ``end`` run in the transaction in which the unit itself changes.
"""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import AttemptOutcome, UnitState
from retllm.db.tables import Attempt, Unit, new_id


def begin(session: Session, unit: Unit, worker: str) -> UUID:
    """An attempt at ``unit`` by ``worker`` begins; its token, which is new."""
    token = new_id()
    session.add(Attempt(token=token, unit_id=unit.id, number=unit.attempt, worker=worker))
    return token


def end(session: Session, token: UUID | None, outcome: AttemptOutcome, *, error: str | None = None) -> None:
    """The attempt with this token is over.

    One by a worker of release 0.1 left no row here when it began; nothing is kept of its end either.
    """
    session.execute(
        sa.update(Attempt)
        .where(Attempt.token == token)
        .values(outcome=outcome, ended_at=sa.func.clock_timestamp(), error=error)
        .execution_options(synchronize_session=False)
    )


def end_forgotten(session: Session) -> int:
    """End the attempts whose unit has gone on without them; returns how many.

    Only a dispatcher of release 0.1, which knows no attempts, takes a unit back and leaves its attempt open.
    """
    gone_on = sa.or_(Unit.state != UnitState.LEASED, Unit.token != Attempt.token)
    ended = session.execute(
        sa.update(Attempt)
        .where(Attempt.outcome.is_(None), Attempt.unit_id == Unit.id, gone_on)
        .values(outcome=AttemptOutcome.LOST, ended_at=sa.func.clock_timestamp(), error="The worker was lost.")
        .execution_options(synchronize_session=False)
    )
    return int(ended.rowcount)  # type: ignore[attr-defined]  # an UPDATE has a count of rows
