"""The job handler of maps: one unit does all, and stores the map."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.orm import Session

from retllm.db.jobs import Job, Unit
from retllm.queue.handlers import JobHandler, NextUnits


def _next_units(_session: Session, _job: Job) -> NextUnits | None:
    """Return None: the job has one unit, which exists from the start."""
    return None


def _on_dead(_session: Session, _job: Job, _unit: Unit, _error: str, _at_fault: bool) -> None:
    """Do nothing: no item is at fault."""


def _finish(_session: Session, _job: Job) -> None:
    """Do nothing: the unit has stored the map."""


def _reopen(_session: Session, _job: Job, _units: Sequence[Unit]) -> None:
    """Do nothing: the earlier map stays until the unit is done again."""


MAP_HANDLER = JobHandler(next_units=_next_units, on_dead=_on_dead, finish=_finish, reopen=_reopen)
