"""The audit log: who did what, and when. An entry is written in the transaction of the deed, so both happen or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.people import AuditEntry
from retllm.db.tables import User, new_id


class Action(StrEnum):
    """What the log knows."""

    LOGGED_IN = "logged in"  # with a password, in a browser
    LOGIN_REFUSED = "login refused"  # the name or the password was wrong; detail has the name that was tried
    PASSWORD_CHANGED = "password changed"  # noqa: S105 - by its owner or by an administrator
    USER_CREATED = "user created"  # an account
    USER_CHANGED = "user changed"  # its role, or locked out, or let in again
    TOKEN_CREATED = "token created"  # noqa: S105 - a bearer token
    TOKEN_REVOKED = "token revoked"  # noqa: S105 - a bearer token
    COLLECTION_CREATED = "collection created"  # with its name
    COLLECTION_CHANGED = "collection changed"  # name, description, visibility or embedder
    COLLECTION_DELETED = "collection deleted"  # with everything in it
    MEMBER_CHANGED = "member changed"  # somebody came into a collection, left it, or got another role there
    ITEMS_UPLOADED = "items uploaded"  # detail counts the outcomes
    ITEM_DELETED = "item deleted"  # its content is gone
    JOB_SUBMITTED = "job submitted"  # an index job or a search
    JOB_CANCELLED = "job cancelled"  # its end was asked for
    JOB_RETRIED = "job retried"  # what failed of it got new attempts
    JOBS_DELETED = "jobs deleted"  # detail counts them
    QUEUE_PAUSED = "queue paused"  # nothing is claimed from it
    QUEUE_RESUMED = "queue resumed"  # it goes on
    UNITS_REQUEUED = "units requeued"  # dead units got new attempts
    RUN_ADDED = "evaluation added"  # a report was uploaded, or reviewed questions are asked again
    RUN_DELETED = "evaluation deleted"  # a run


@dataclass(frozen=True)
class Filters:
    """Which entries; None filters nothing."""

    user_name: str | None = None
    action: Action | None = None
    collection_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None


def record(
    session: Session,
    user: User | None,
    action: Action,
    *,
    target: str | None = None,
    target_id: UUID | None = None,
    collection_id: UUID | None = None,
    address: str | None = None,
    **detail: Any,
) -> None:
    """Write an entry; ``target`` is the name of what it was done to, ``address`` where the request came from."""
    session.add(
        AuditEntry(
            id=new_id(),
            user_name=user.name if user else None,
            action=action.value,
            target=target,
            target_id=target_id,
            collection_id=collection_id,
            address=address,
            detail=detail,
        )
    )


def page(session: Session, filters: Filters, *, after: UUID | None = None, limit: int = 50) -> Sequence[AuditEntry]:
    """Entries, newest first; ``after`` is the last key of the page before."""
    query = sa.select(AuditEntry).order_by(AuditEntry.id.desc()).limit(limit)
    conditions = {
        AuditEntry.user_name: filters.user_name,
        AuditEntry.action: filters.action.value if filters.action else None,
        AuditEntry.collection_id: filters.collection_id,
    }
    for column, value in conditions.items():
        if value is not None:
            query = query.where(column == value)
    if filters.since is not None:
        query = query.where(AuditEntry.created_at >= filters.since)
    if filters.until is not None:
        query = query.where(AuditEntry.created_at < filters.until)
    if after is not None:
        query = query.where(AuditEntry.id < after)
    return session.scalars(query).all()
