"""Which unit a worker claims: accounts take turns, and so do the jobs of each.

A hint names a unit, but means only that a queue has one more. So an account with a thousand jobs does not delay the
first unit of another by more than the unit in work, however many hints are ahead of it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from uuid import UUID

import sqlalchemy as sa
import structlog
from sqlalchemy.orm import Session

from retllm.db.enums import Stage, UnitState
from retllm.db.jobs import Unit
from retllm.db.session import Sessions, transaction
from retllm.queue.claim import Claim, claim_unit
from retllm.queue.ready import in_turn, tried_of, users_in_turn
from retllm.queue.routing import Routing, routing_of, served_queue
from retllm.settings import Settings

log = structlog.get_logger(__name__)

_REMEMBERED = 1000
# other workers may claim the first ones meanwhile
_CANDIDATES = 4
# of the first ones, all jobs may be cancelled
_ACCOUNTS = 20


class Turns:
    """The accounts that a worker process has served. Thread-safe."""

    def __init__(self) -> None:
        self._served: dict[UUID, None] = {}
        self._lock = threading.Lock()

    def served(self) -> list[UUID]:
        """Return the accounts in the order in which they were served last, the longest ago first."""
        with self._lock:
            return list(self._served)

    def note(self, user_id: UUID) -> None:
        """Remember that an account is served now."""
        with self._lock:
            self._served.pop(user_id, None)
            self._served[user_id] = None
            if len(self._served) > _REMEMBERED:
                del self._served[next(iter(self._served))]


def claim_notified(sessions: Sessions, unit_id: UUID, worker: str, settings: Settings, turns: Turns) -> Claim | None:
    """Claim the unit that a hint names if it is its account's turn, and otherwise one of the account whose turn it is.

    If the unit is no longer ready, another is claimed in its place, since its own hint may have served this one.
    Returns None if there is nothing to claim, or the unit was deleted.
    """
    routing = routing_of(settings)
    with transaction(sessions) as session:
        columns = Unit.user_id, Unit.stage, Unit.scorer, Unit.state
        unit = session.execute(sa.select(*columns).where(Unit.id == unit_id)).one_or_none()
        if unit is None or routing.queue_of(unit.stage, unit.scorer) != served_queue(settings, unit.stage):
            return None
        queue = served_queue(settings, unit.stage)
        users = users_in_turn(session, routing, queue, turns.served())[:_ACCOUNTS]
    named = [unit_id] if unit.state is UnitState.READY else []
    for user in users:
        waiting = named if user == unit.user_id else []
        claim = _claim_first(waiting, sessions, worker, settings, turns)
        if claim is None:
            with transaction(sessions) as session:
                waiting = _waiting_of(session, routing, queue, user)
            claim = _claim_first(waiting, sessions, worker, settings, turns)
        if claim is not None:
            return claim
    return _claim_first(named, sessions, worker, settings, turns)


def waiting_unit(sessions: Sessions, stage: Stage, settings: Settings, turns: Turns) -> UUID | None:
    """Return a unit of a stage that can be claimed, of the account whose turn it is; None if none waits."""
    routing, queue = routing_of(settings), served_queue(settings, stage)
    with transaction(sessions) as session:
        for user in users_in_turn(session, routing, queue, turns.served())[:_ACCOUNTS]:
            for unit_id in _waiting_of(session, routing, queue, user):
                return unit_id
    return None


def _waiting_of(session: Session, routing: Routing, queue: str, user: UUID) -> list[UUID]:
    untried = in_turn(session, routing, queue, _CANDIDATES, [user])
    return [*tried_of(session, routing, queue, user, _CANDIDATES), *(unit_id for unit_id, _ in untried)]


def _claim_first(
    unit_ids: Iterable[UUID], sessions: Sessions, worker: str, settings: Settings, turns: Turns
) -> Claim | None:
    """Claim the first of these units that can be claimed."""
    for unit_id in unit_ids:
        claim = claim_unit(sessions, unit_id, worker, settings)
        if claim is not None:
            turns.note(claim.user_id)
            return claim
    return None


def claim_companions(
    sessions: Sessions, first: Claim, items: int, worker: str, settings: Settings, turns: Turns
) -> Iterator[Claim]:
    """Claim ready units of the same queue, one for each step, until they have ``items`` items with the first one.

    A unit that is tried again stays alone: if it ended its worker before, the others would lose an attempt with it each
    time.
    """
    if items > 1 and first.attempt == 1:
        yield from claim_some(sessions, first.stage, items - len(first.payload["items"]), worker, settings, turns)


def claim_some(
    sessions: Sessions, stage: Stage, items: int, worker: str, settings: Settings, turns: Turns
) -> Iterator[Claim]:
    """Claim ready units of a stage, in the queue that the worker serves, until they have ``items`` items.

    They are claimed one for each step, in turn, and nobody has tried them yet. If the database fails, there are no
    more.
    """
    left = items
    if left <= 0:
        return
    try:
        with transaction(sessions) as session:
            routing, queue = routing_of(settings), served_queue(settings, stage)
            users = users_in_turn(session, routing, queue, turns.served(), untried=True)
            found = in_turn(session, routing, queue, left, users)
        for unit_id, size in found:
            if left <= 0:
                return
            claim = claim_unit(sessions, unit_id, worker, settings)
            if claim is not None:
                turns.note(claim.user_id)
                left -= size
                yield claim
    except sa.exc.SQLAlchemyError as error:
        # what was claimed is done all the same
        log.warning("units.not_claimed", reason=str(error))
