"""The job handler of the search for near-duplicates: list, hash and compare, then form the groups once."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from retllm.db.enums import Stage, UnitState
from retllm.db.jobs import Job, Unit
from retllm.duplicates.submit import GROUP, STEP
from retllm.queue.handlers import JobHandler, NextUnits


def _next_units(session: Session, job: Job) -> NextUnits | None:
    """Return the unit that forms the groups, unless it did so after all others were done."""
    own = Unit.job_id == job.id
    is_listed = sa.select(Unit.id).where(own, Unit.stage == Stage.MEDIA, Unit.seq == 0, Unit.state == UnitState.DONE)
    if session.scalar(is_listed) is None:
        return None
    last = session.scalar(sa.select(Unit).where(own, Unit.payload.has_key("pass")).order_by(Unit.id.desc()).limit(1))
    if last is not None and not (last.state is UnitState.DONE and _was_retried_after(session, last)):
        return None
    return Stage.MEDIA, [{STEP: GROUP, "pass": GROUP, "items": []}]


def _was_retried_after(session: Session, last: Unit) -> bool:
    """Return whether a unit, which was dead when the groups were formed, is done now."""
    unit = aliased(Unit)
    later = sa.select(unit.id).where(
        unit.job_id == last.job_id,
        unit.state == UnitState.DONE,
        unit.finished_at > last.started_at,
        unit.id != last.id,
    )
    return session.scalar(later.limit(1)) is not None


def _on_dead(_session: Session, _job: Job, _unit: Unit, _error: str, _at_fault: bool) -> None:
    """Do nothing: the unit has the error, with the name of the picture."""


def _finish(_session: Session, _job: Job) -> None:
    """Do nothing: the last unit has stored the groups. The pairs stay, so that a retry can add to them."""


def _reopen(_session: Session, _job: Job, _units: Sequence[Unit]) -> None:
    """Do nothing: a unit that is done again replaces nothing."""


DUPLICATES_HANDLER = JobHandler(next_units=_next_units, on_dead=_on_dead, finish=_finish, reopen=_reopen)
