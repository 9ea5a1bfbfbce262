"""Claims further units that a worker does together with one, or after it, fairly among jobs."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import sqlalchemy as sa
import structlog
from sqlalchemy.orm import Session

from retllm.db.enums import Stage, UnitState
from retllm.db.session import Sessions, transaction
from retllm.db.tables import Job, Unit
from retllm.queue.claim import Claim, claim_unit
from retllm.queue.routing import routing_of, served_queue
from retllm.settings import Settings

log = structlog.get_logger(__name__)


def claim_companions(sessions: Sessions, first: Claim, items: int, worker: str, settings: Settings) -> Iterator[Claim]:
    """Claim ready units of the same queue, one for each step, until they have ``items`` items with the first one.

    A unit that is tried again stays alone: if it ended its worker before, the others would lose an attempt with it each
    time.
    """
    if items > 1 and first.attempt == 1:
        yield from claim_some(sessions, first.stage, items - len(first.payload["items"]), worker, settings)


def claim_some(sessions: Sessions, stage: Stage, items: int, worker: str, settings: Settings) -> Iterator[Claim]:
    """Claim ready units of a stage, in the queue that the worker serves, until they have ``items`` items.

    They are claimed one for each step, and nobody has tried them yet.

    Jobs of which fewest units are in work come first. If the database fails, there are no more.
    """
    left = items
    if left <= 0:
        return
    try:
        with transaction(sessions) as session:
            found = _ready(session, stage, left, settings)
        for unit_id, size in found:
            if left <= 0:
                return
            claim = claim_unit(sessions, unit_id, worker, settings)
            if claim is not None:
                left -= size
                yield claim
    except sa.exc.SQLAlchemyError as error:
        # what was claimed is done all the same
        log.warning("units.not_claimed", reason=str(error))


def _ready(session: Session, stage: Stage, limit: int, settings: Settings) -> list[sa.Row[UUID, int]]:
    """Return units that nobody has tried yet, with their numbers of items, in the order in which to claim them."""
    in_work = (
        sa.select(Unit.job_id, sa.func.count().label("units"))
        .where(Unit.stage == stage, Unit.state == UnitState.LEASED)
        .group_by(Unit.job_id)
        .subquery()
    )
    turn = sa.func.row_number().over(partition_by=Unit.job_id, order_by=Unit.seq)
    query = (
        sa.select(Unit.id, sa.func.jsonb_array_length(Unit.payload["items"]))
        .join(Job, Job.id == Unit.job_id)
        .outerjoin(in_work, in_work.c.job_id == Unit.job_id)
        .where(*routing_of(settings).within(served_queue(settings, stage)))
        .where(Unit.state == UnitState.READY, Unit.attempt == 0)
        .where(Unit.run_after <= sa.func.clock_timestamp(), ~Job.cancel_requested)
        .order_by(turn + sa.func.coalesce(in_work.c.units, 0), Unit.job_id)
    )
    return list(session.execute(query.limit(limit)))
