"""Claims further units that a worker does together with one, or after it, fairly among jobs."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
import structlog

from retllm.db.enums import Stage
from retllm.db.session import Sessions, transaction
from retllm.queue.claim import Claim, claim_unit
from retllm.queue.ready import in_turn
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
            found = in_turn(session, routing_of(settings), served_queue(settings, stage), left)
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
