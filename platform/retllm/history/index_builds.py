"""How far the database is with the vector indexes that jobs build."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import UnitState
from retllm.db.jobs import Unit
from retllm.db.vectors import build_progress

_BUILDS = (Unit.state == UnitState.LEASED, Unit.payload.has_key("index"))


def builds_index(job_id: Any) -> sa.ColumnElement[bool]:
    """Return the condition that a unit of a job builds an index."""
    return sa.exists().where(Unit.job_id == job_id, *_BUILDS)


def index_builds(session: Session, job_ids: Sequence[UUID]) -> dict[UUID, float]:
    """Return how much of an index the database has built for each job; an index has the key of its unit."""
    if not job_ids:
        return {}
    building = sa.select(Unit.id, Unit.job_id).where(Unit.job_id.in_(job_ids), *_BUILDS)
    jobs: dict[UUID, UUID] = dict(iter(session.execute(building)))
    return {jobs[unit_id]: share for unit_id, share in build_progress(session, list(jobs)).items()}
