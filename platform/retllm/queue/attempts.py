"""The attempts of a unit, from claim to end. The token of an attempt marks the rows that it writes.

``begin`` and ``end`` run in the transaction that changes the unit.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import AttemptOutcome
from retllm.db.tables import Attempt, Unit, new_id


def begin(session: Session, unit: Unit, worker: str) -> UUID:
    """Start an attempt at ``unit`` by ``worker``; return its new token."""
    token = new_id()
    session.add(Attempt(token=token, unit_id=unit.id, number=unit.attempt, worker=worker))
    return token


def waits(session: Session, unit_id: UUID) -> tuple[int, float]:
    """Return how often a unit was returned for a reason since it last got further, and the seconds since the first."""
    further = (
        sa.select(sa.func.max(Attempt.started_at))
        .where(Attempt.unit_id == unit_id, Attempt.outcome.in_([AttemptOutcome.FAILED, AttemptOutcome.CANCELLED]))
        .scalar_subquery()
    )
    began = sa.func.min(Attempt.started_at)
    waited = sa.func.extract("epoch", sa.func.clock_timestamp() - began)
    times, seconds = session.execute(
        sa.select(sa.func.count(), sa.func.coalesce(waited, 0)).where(
            Attempt.unit_id == unit_id,
            Attempt.outcome == AttemptOutcome.RETURNED,
            Attempt.error.is_not(None),
            sa.or_(further.is_(None), Attempt.started_at > further),
        )
    ).one()
    return times, float(seconds)


def last_waited(unit_id: Any) -> sa.ScalarSelect[bool]:
    """Return the condition that a unit was returned for a reason by its last attempt that ended: it waits for a server.

    Args:
        unit_id: the column with the unit's key.
    """
    return (
        sa.select(sa.and_(Attempt.outcome == AttemptOutcome.RETURNED, Attempt.error.is_not(None)))
        .where(Attempt.unit_id == unit_id, Attempt.outcome.is_not(None))
        .order_by(Attempt.token.desc())
        .limit(1)
        .scalar_subquery()
    )


def end(session: Session, token: UUID | None, outcome: AttemptOutcome, *, error: str | None = None) -> None:
    """End the attempt with this token."""
    session.execute(
        sa.update(Attempt)
        .where(Attempt.token == token)
        .values(outcome=outcome, ended_at=sa.func.clock_timestamp(), error=error)
        .execution_options(synchronize_session=False)
    )
