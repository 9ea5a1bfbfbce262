"""The units of a job with their attempts: worker, duration, outcome and error."""

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
from retllm.db.jobs import Attempt, Job, Unit
from retllm.errors import Forbidden, NotFound
from retllm.history.named_items import MAX_NAMED, NamedItem, name_items
from retllm.identity.access import job_for, require_job_rights
from retllm.identity.actor import Actor

UnitPosition = tuple[Stage, int]

# maximum attempts shown for a unit; retries and stopped workers can add many
_MAX_TRAIL = 20

# nine digits fit into the column
UNIT_POSITION = rf"^({'|'.join(Stage)})\.[0-9]{{1,9}}$"
"""Pattern of a unit's position in a URL: its stage and number, such as ``fine.12``."""


def position_of(text: str) -> UnitPosition:
    """Parse a position of the form ``UNIT_POSITION``.

    Raises:
        NotFound: ``text`` does not have this form.
    """
    if not re.fullmatch(UNIT_POSITION, text):
        raise NotFound("There is no such page of attempts.")
    stage, _, seq = text.partition(".")
    return Stage(stage), int(seq)


def name_of(unit: AttemptView) -> str:
    """Return the position of a unit in the form ``UNIT_POSITION``."""
    return f"{unit.stage}.{unit.seq}"


class TrailView(BaseModel):
    """One attempt at a unit."""

    model_config = ConfigDict(from_attributes=True)

    number: int = Field(description="number of the attempt; a retry of the job starts again at 1")
    worker: str = Field(description="host and process")
    started_at: datetime
    ended_at: datetime | None
    seconds: float | None = Field(description="duration; null while it runs")
    outcome: AttemptOutcome | None = Field(
        description="committed, failed, lost (its lease expired), returned (the worker was stopped; does not count as "
        "an attempt) or cancelled; null while it runs"
    )
    error: str | None


class AttemptView(BaseModel):
    """A unit of a job, its last attempt, and the trail of all attempts."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    stage: Stage
    seq: int = Field(description="number of the unit in its stage, from 0")
    state: UnitState
    items: int | None = Field(description="number of its items or candidates; null in the coarse stage")
    about: list[NamedItem] = Field(
        default=[], description=f"of a unit with an error, the first {MAX_NAMED} of its items or files, by name"
    )
    attempt: int = Field(description="number of attempts so far, including the current one")
    worker: str | None = Field(description="host and process of the last attempt")
    started_at: datetime | None
    finished_at: datetime | None
    seconds: float | None = Field(description="duration of the last attempt; null while it runs")
    run_after: datetime | None = Field(description="time of the next attempt; null unless it waits after a failure")
    error: str | None
    traceback: str | None = Field(default=None, description="only for accounts that may change the job")
    trail: list[TrailView] = Field(description=f"the attempts in order, at most the last {_MAX_TRAIL}")


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
    """Return a page of the units of a job, by stage and number.

    Args:
        state: return only units in this state.
        after: stage and number of the last unit of the previous page.
        traced: include tracebacks, if this account may change the job.

    Raises:
        NotFound: the job does not exist or this account may not see it.
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
    named = name_items(session, ((unit.id, unit.stage, unit.payload) for unit in units if unit.error is not None))
    return [_view(unit, trails[unit.id], named.get(unit.id, []), traced) for unit in units]


def _trails(session: Session, unit_ids: Sequence[UUID]) -> dict[UUID, list[TrailView]]:
    """Return the last attempts of each unit, in order."""
    newest = sa.func.row_number().over(partition_by=Attempt.unit_id, order_by=Attempt.token.desc()).label("newest")
    numbered = sa.select(Attempt, newest).where(Attempt.unit_id.in_(unit_ids)).subquery()
    last = aliased(Attempt, numbered)
    trails: defaultdict[UUID, list[TrailView]] = defaultdict(list)
    for attempt in session.scalars(sa.select(last).where(numbered.c.newest <= _MAX_TRAIL).order_by(last.token)):
        trails[attempt.unit_id].append(
            TrailView(
                number=attempt.number,
                worker=attempt.worker,
                started_at=attempt.started_at,
                ended_at=attempt.ended_at,
                seconds=_seconds(attempt.started_at, attempt.ended_at),
                outcome=attempt.outcome,
                error=attempt.error,
            )
        )
    return trails


def may_change(session: Session, actor: Actor, job: Job) -> bool:
    """Return whether ``actor`` may cancel, retry and delete a job that they can see."""
    try:
        require_job_rights(session, actor, job)
    except Forbidden:
        return False
    return True


def _view(unit: Unit, trail: list[TrailView], about: list[NamedItem], traced: bool) -> AttemptView:
    items: Sequence[str] | None = unit.payload.get("items")
    waits = unit.state is UnitState.READY and unit.error is not None
    return AttemptView(
        id=unit.id,
        stage=unit.stage,
        seq=unit.seq,
        state=unit.state,
        items=None if items is None else len(items),
        about=about,
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
    # a unit that was reopened and then cancelled has its old end before its new start
    return max(0.0, (finished - started).total_seconds())
