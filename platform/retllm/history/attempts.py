"""The units of a job one by one: who did them, how often they were tried, and why they failed."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session, aliased, undefer

from retllm.db.enums import AttemptOutcome, Stage, UnitState
from retllm.db.tables import Attempt, Job, Unit
from retllm.errors import Forbidden, NotFound
from retllm.identity.access import job_for, require_job_rights
from retllm.identity.actor import Actor

UnitPosition = tuple[Stage, int]

# attempts shown of one unit; retries and stopped workers can make many
_TRAIL = 20

# nine figures fit into the column
UNIT_POSITION = rf"^({'|'.join(Stage)})\.[0-9]{{1,9}}$"
"""How a unit is named in an address: its stage and number, such as ``fine.12``."""


def position_of(text: str) -> UnitPosition:
    """The place that ``PLACE`` describes.

    Raises:
        NotFound: it is none.
    """
    if not re.fullmatch(UNIT_POSITION, text):
        raise NotFound("There is no such page of attempts.")
    stage, _, seq = text.partition(".")
    return Stage(stage), int(seq)


def name_of(unit: AttemptView) -> str:
    """A unit as ``PLACE`` describes it."""
    return f"{unit.stage}.{unit.seq}"


class TrailView(BaseModel):
    """One attempt at a unit."""

    model_config = ConfigDict(from_attributes=True)

    number: int = Field(description="which attempt it was; a retry of the job begins again with 1")
    worker: str = Field(description="host and process")
    started_at: datetime
    ended_at: datetime | None
    seconds: float | None = Field(description="that it took; null while it lasts")
    outcome: AttemptOutcome | None = Field(
        description="committed, failed, lost (its lease ran out), returned (the worker was told to stop; does not "
        "count) or cancelled; null while it lasts"
    )
    error: str | None


class AttemptView(BaseModel):
    """A unit of a job, how its last attempt went, and the trail of all of them."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    stage: Stage
    seq: int = Field(description="its number in the stage, from 0")
    state: UnitState
    items: int | None = Field(description="items or candidates that it names; null of the coarse stage")
    attempt: int = Field(description="attempts so far, the present one with them")
    worker: str | None = Field(description="host and process of the last attempt")
    started_at: datetime | None
    finished_at: datetime | None
    seconds: float | None = Field(description="that the last attempt took; null while it lasts")
    run_after: datetime | None = Field(description="when it may be tried again; null unless it waits after a failure")
    error: str | None
    traceback: str | None = Field(default=None, description="for those who may change the job")
    trail: list[TrailView] = Field(description=f"every attempt, the first one first; of many the last {_TRAIL}")


def attempts(
    session: Session,
    actor: Actor,
    job_id: UUID,
    *,
    state: UnitState | None = None,
    after: UnitPosition | None = None,
    limit: int = 50,
    traced: bool = False,
) -> list[AttemptView]:
    """A page of the units of a job, by stage and number.

    Args:
        state: only units in this state.
        after: stage and number of the last unit of the page before (keyset).
        traced: read their tracebacks too, if this account may change the job.

    Raises:
        NotFound: there is no such job that this account may see.
    """
    job = job_for(session, actor, job_id)
    traced = traced and may_change(session, actor, job)
    query = sa.select(Unit).where(Unit.job_id == job_id).order_by(Unit.stage, Unit.seq).limit(limit)
    if state is not None:
        query = query.where(Unit.state == state)
    if after is not None:
        query = query.where(
            sa.tuple_(Unit.stage, Unit.seq) > sa.tuple_(sa.literal(after[0], Unit.stage.type), after[1])
        )
    if traced:
        query = query.options(undefer(Unit.traceback))
    units = session.scalars(query).all()
    trails = _trails(session, [unit.id for unit in units])
    return [_view(unit, trails[unit.id], traced) for unit in units]


def _trails(session: Session, unit_ids: Sequence[UUID]) -> dict[UUID, list[TrailView]]:
    """The last attempts at each of these units, the first one first."""
    newest = sa.func.row_number().over(partition_by=Attempt.unit_id, order_by=Attempt.token.desc()).label("newest")
    numbered = sa.select(Attempt, newest).where(Attempt.unit_id.in_(unit_ids)).subquery()
    last = aliased(Attempt, numbered)
    trails: defaultdict[UUID, list[TrailView]] = defaultdict(list)
    for one in session.scalars(sa.select(last).where(numbered.c.newest <= _TRAIL).order_by(last.token)):
        trails[one.unit_id].append(
            TrailView(
                number=one.number,
                worker=one.worker,
                started_at=one.started_at,
                ended_at=one.ended_at,
                seconds=_seconds(one.started_at, one.ended_at),
                outcome=one.outcome,
                error=one.error,
            )
        )
    return trails


def may_change(session: Session, actor: Actor, job: Job) -> bool:
    """Whether ``actor`` may stop, retry and delete a job that they see."""
    try:
        require_job_rights(session, actor, job)
    except Forbidden:
        return False
    return True


def _view(unit: Unit, trail: list[TrailView], traced: bool) -> AttemptView:
    items: Sequence[str] | None = unit.payload.get("items")
    waits = unit.state is UnitState.READY and unit.error is not None
    return AttemptView(
        id=unit.id,
        stage=unit.stage,
        seq=unit.seq,
        state=unit.state,
        items=None if items is None else len(items),
        attempt=unit.attempt,
        worker=unit.worker,
        started_at=unit.started_at,
        finished_at=unit.finished_at,
        seconds=_seconds(unit.started_at, unit.finished_at),
        run_after=unit.run_after if waits else None,
        error=unit.error,
        traceback=unit.traceback if traced else None,
        trail=trail,
    )


def _seconds(started: datetime | None, finished: datetime | None) -> float | None:
    if started is None or finished is None:
        return None
    # a unit that was reopened and dropped again ended before it began anew
    return max(0.0, (finished - started).total_seconds())
