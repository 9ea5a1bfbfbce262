"""What the job core asks of an index job: its units are all there from the beginning."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy.orm import Session

from retllm.db.tables import Job, Unit
from retllm.indexing.indexed import keep_error
from retllm.queue.handlers import JobHandler


def _next_units(_session: Session, _job: Job) -> None:
    return None


def _on_dead(session: Session, _job: Job, unit: Unit, error: str, at_fault: bool) -> None:
    """Show the error on the item; one without a model to embed it is not at fault."""
    items: Sequence[str] = unit.payload.get("items", [])
    if at_fault and items:
        keep_error(session, UUID(items[0]), error)


def _finish(_session: Session, _job: Job) -> None:
    """The vectors are stored by then."""


def _reopen(_session: Session, _job: Job, _units: Sequence[Unit]) -> None:
    """An item's error goes when the item is embedded."""


INDEX_HANDLER = JobHandler(next_units=_next_units, on_dead=_on_dead, finish=_finish, reopen=_reopen)
