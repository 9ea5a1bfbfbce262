"""Actions on queues and dead units: in one transaction with the audit entry; workers are notified after the commit."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy.orm import Session

from retllm.db.enums import Role
from retllm.db.session import run_transaction, transaction
from retllm.identity.access import require_role
from retllm.identity.actor import Actor
from retllm.identity.audit import Action
from retllm.operations import failures, queues
from retllm.operations.failures import FailureFilters, Requeued
from retllm_web.actions.auditing import record
from retllm_web.http.services import services

MAX_AT_ONCE = 5_000
"""Maximum of dead units that one request retries; the caller repeats the request for more."""


def pause(actor: Actor, queue: str, reason: str) -> bool:
    """Pause a queue; return False if it was already paused.

    Raises:
        Forbidden: ``actor`` is not an administrator.
        NotFound: there is no such queue.
    """
    require_role(actor, Role.ADMIN)
    with transaction(services().sessions) as session:
        done = queues.pause(session, services().routing, actor, queue, reason)
        if done:
            record(session, Action.QUEUE_PAUSED, target=queue, reason=reason)
    return done


def resume(actor: Actor, queue: str) -> bool:
    """Resume a queue; return False if it was not paused.

    Raises:
        Forbidden: ``actor`` is not an administrator.
        NotFound: there is no such queue.
    """
    require_role(actor, Role.ADMIN)
    with transaction(services().sessions) as session:
        done, units = queues.resume(session, services().routing, queue)
        if done:
            record(session, Action.QUEUE_RESUMED, target=queue)
    services().notifier.notify(units)
    return done


def requeue(actor: Actor, unit_ids: list[UUID]) -> Requeued:
    """Retry those of these dead units that the account may retry; the others are counted by reason."""

    def recorded(session: Session) -> Requeued:
        done = failures.requeue(session, actor, unit_ids)
        if done.number:
            record(session, Action.UNITS_REQUEUED, units=done.number)
        return done

    done = run_transaction(services().sessions, recorded)
    services().notifier.notify(done.units)
    return done


def requeue_all(actor: Actor, filters: FailureFilters) -> Requeued:
    """Retry all matching dead units in batches, up to ``MAX_AT_ONCE``."""
    started = datetime.now(UTC)
    total = Requeued(refused=Counter())
    while total.number < MAX_AT_ONCE:
        with transaction(services().sessions) as session:
            batch = failures.changeable(session, actor, filters, until=started)
        done = requeue(actor, batch) if batch else Requeued()
        total.number += done.number
        total.refused += done.refused
        if not done.number:
            break
    return total
