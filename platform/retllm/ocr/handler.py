"""The job handler of reading the text in pictures: its first unit adds all others."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.orm import Session

from retllm.db.jobs import Job, Unit
from retllm.queue.handlers import JobHandler


def _next_units(_session: Session, _job: Job) -> None:
    """Return none: the first unit has added them."""


def _on_dead(_session: Session, _job: Job, _unit: Unit, _error: str, _at_fault: bool) -> None:
    """Do nothing: the unit has the error, with the name of the picture, which stays unread."""


def _finish(_session: Session, _job: Job) -> None:
    """Do nothing: each unit has stored its texts."""


def _reopen(_session: Session, _job: Job, _units: Sequence[Unit]) -> None:
    """Do nothing: a unit that is done again writes the same texts."""


OCR_HANDLER = JobHandler(next_units=_next_units, on_dead=_on_dead, finish=_finish, reopen=_reopen)
