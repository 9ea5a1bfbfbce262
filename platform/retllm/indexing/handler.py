"""The job handler of index jobs; all their units exist from the start, except those that build vector indexes."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy.orm import Session

from retllm.db.jobs import Job, Unit
from retllm.indexing.indexed import keep_error
from retllm.indexing.vector_indexes import next_index_units
from retllm.queue.handlers import JobHandler


def _on_dead(session: Session, _job: Job, unit: Unit, error: str, at_fault: bool) -> None:
    """Store the error on the item, if the item is at fault and not, for example, a missing model."""
    items: Sequence[str] = unit.payload.get("items", [])
    if at_fault and items:
        keep_error(session, UUID(items[0]), error)


def _finish(_session: Session, _job: Job) -> None:
    """Do nothing: the units have stored the vectors."""


def _reopen(_session: Session, _job: Job, _units: Sequence[Unit]) -> None:
    """Do nothing: the error of an item is cleared when the item is embedded."""


INDEX_HANDLER = JobHandler(next_units=next_index_units, on_dead=_on_dead, finish=_finish, reopen=_reopen)
