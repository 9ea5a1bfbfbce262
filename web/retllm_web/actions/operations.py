"""What people do to queues and dead units: in one transaction with the entry of the log, announced after it."""

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
from retllm_web.actions.auditing import note
from retllm_web.http.services import services

MAX_AT_ONCE = 5_000
"""Dead units that one request gives new attempts; the next request does the next."""


def pause(actor: Actor, queue: str, reason: str) -> bool:
    """Pause a queue; false if it stood still already.

    Raises:
        Forbidden: they are no administrator.
        NotFound: there is no such queue.
    """
    require_role(actor, Role.ADMIN)
    with transaction(services().sessions) as session:
        done = queues.pause(session, actor, queue, reason)
        if done:
            note(session, Action.QUEUE_PAUSED, target=queue, reason=reason)
    return done


def resume(actor: Actor, queue: str) -> bool:
    """Let a queue go on; false if it was not paused.

    Raises:
        Forbidden: they are no administrator.
        NotFound: there is no such queue.
    """
    require_role(actor, Role.ADMIN)
    with transaction(services().sessions) as session:
        done, units = queues.resume(session, queue)
        if done:
            note(session, Action.QUEUE_RESUMED, target=queue)
    services().notifier.notify(units)
    return done


def requeue(actor: Actor, unit_ids: list[UUID]) -> Requeued:
    """Give these dead units new attempts, those that this account may; the others are counted by the reason."""

    def noted(session: Session) -> Requeued:
        done = failures.requeue(session, actor, unit_ids)
        if done.number:
            note(session, Action.UNITS_REQUEUED, units=done.number)
        return done

    done = run_transaction(services().sessions, noted)
    services().notifier.notify(done.units)
    return done


def requeue_all(actor: Actor, filters: FailureFilters) -> Requeued:
    """The same for all that match, a batch at a time, and no more than ``MAX_AT_ONCE``."""
    began = datetime.now(UTC)
    whole = Requeued(refused=Counter())
    while whole.number < MAX_AT_ONCE:
        with transaction(services().sessions) as session:
            batch = failures.changeable(session, actor, filters, until=began)
        done = requeue(actor, batch) if batch else Requeued()
        whole.number += done.number
        whole.refused += done.refused
        if not done.number:
            break
    return whole
