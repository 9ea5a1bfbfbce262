"""The errors of the units of jobs, with the items that they are about."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from uuid import UUID

import sqlalchemy as sa
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from retllm.db.enums import Stage, UnitState
from retllm.db.jobs import Job, Unit
from retllm.history.named_items import MAX_NAMED, NamedItem, name_items
from retllm.history.same_errors import MAX_ERRORS
from retllm.queue import patience


class UnitError(BaseModel):
    """The error of a unit whose last attempt failed or that is dead."""

    stage: Stage
    seq: int
    state: UnitState
    attempt: int
    error: str
    run_after: datetime | None
    waits: bool = Field(default=False, description="whether it waits for a server; then no attempt has failed of this")
    waits_until: datetime | None = Field(
        default=None,
        description="when it fails if the server stays away; null unless it waits. Time in which it is not tried, such "
        "as that of a pause, does not count",
    )

    items: int = Field(default=0, description="number of items, candidates or files that the unit is about")
    about: list[NamedItem] = Field(default=[], description=f"the first {MAX_NAMED} of them, by name")


def errors_of(session: Session, job_ids: Sequence[UUID]) -> dict[UUID, list[UnitError]]:
    """Return the errors of the first ``MAX_ERRORS`` units of each job that failed, are tried again, or wait."""
    result: dict[UUID, list[UnitError]] = defaultdict(list)
    if not job_ids:
        return result
    rows = session.execute(_failing(), {"job_ids": job_ids}).all()
    named = name_items(session, ((unit.id, unit.stage, unit.payload) for unit, _ in rows))
    for unit, waits_until in rows:
        result[unit.job_id].append(
            UnitError(
                stage=unit.stage,
                seq=unit.seq,
                state=unit.state,
                attempt=unit.attempt,
                error=unit.error or "",
                run_after=unit.run_after if unit.state is UnitState.READY else None,
                waits=waits_until is not None,
                waits_until=waits_until,
                items=len(unit.payload.get("items") or ()),
                about=named[unit.id],
            )
        )
    return result


@cache
def _failing() -> sa.Select[Unit, datetime | None]:
    failing = sa.orm.aliased(
        Unit,
        sa.select(Unit)
        .where(
            Unit.job_id == Job.id,
            Unit.error.is_not(None),
            Unit.state.in_([UnitState.READY, UnitState.LEASED, UnitState.DEAD]),
        )
        .correlate(Job)
        .order_by(Unit.stage, Unit.seq)
        .limit(MAX_ERRORS)
        .lateral(),
    )
    return (
        sa.select(failing, patience.until(failing))
        .select_from(Job)
        .join(failing, sa.true())
        .where(Job.id.in_(sa.bindparam("job_ids", expanding=True)))
        .order_by(failing.stage, failing.seq)
    )
