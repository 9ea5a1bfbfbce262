"""The job handler of searches: units of the fine stage, and the final order."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import Stage
from retllm.db.jobs import Job, Unit
from retllm.db.searches import Candidate
from retllm.queue.handlers import JobHandler, NextUnits
from retllm.search import fine, ranking


def _next_units(session: Session, job: Job) -> NextUnits | None:
    """Return units for the first candidates, another wave, or the entropy of ties."""
    payloads = fine.next_payloads(session, job.id)
    return (Stage.FINE, payloads) if payloads else None


def _on_dead(session: Session, job: Job, unit: Unit, error: str, _at_fault: bool) -> None:
    """Store the error on the candidates, unless only their entropy is missing."""
    if unit.stage is Stage.FINE and not fine.is_entropy_pass(unit.payload):
        _mark_candidates(session, job.id, unit.payload.get("items", []), error)


def _finish(session: Session, job: Job) -> None:
    ranking.write_final_order(session, job.id)


def _reopen(session: Session, job: Job, units: Sequence[Unit]) -> None:
    for unit in units:
        if unit.stage is Stage.FINE:
            _mark_candidates(session, job.id, unit.payload.get("items", []), None)
    if job.finished_at is not None:
        ranking.clear_final_order(session, job.id)


def _mark_candidates(session: Session, search_id: UUID, items: Sequence[str], error: str | None) -> None:
    session.execute(
        sa.update(Candidate)
        .where(Candidate.search_id == search_id, Candidate.item_id.in_([UUID(item) for item in items]))
        .values(error=error)
    )


SEARCH_HANDLER = JobHandler(next_units=_next_units, on_dead=_on_dead, finish=_finish, reopen=_reopen)
