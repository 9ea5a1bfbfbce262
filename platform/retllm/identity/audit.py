"""The audit log: who did what, and when. An entry is written in the transaction of the action itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.people import AuditEntry
from retllm.db.tables import User, new_id
from retllm.identity.actor import Actor

# maximum difference between the clocks of the processes that create keys and that of the database
_SKEW = timedelta(days=1)


class Action(StrEnum):
    """The actions in the log."""

    LOGGED_IN = "logged in"  # with a password, in a browser
    LOGGED_OUT = "logged out"  # in that browser
    SESSIONS_ENDED = "sessions ended"  # other browsers of the account, by itself; detail has their number
    LOGIN_REFUSED = "login refused"  # wrong name or password; detail has the name if it is an account's
    PASSWORD_CHANGED = "password changed"  # noqa: S105 - by its owner or by an administrator
    USER_CREATED = "user created"  # an account
    USER_CHANGED = "user changed"  # its role, or locked, or unlocked
    TOKEN_CREATED = "token created"  # noqa: S105 - a bearer token
    TOKEN_REVOKED = "token revoked"  # noqa: S105 - a bearer token
    COLLECTION_CREATED = "collection created"  # with its name
    COLLECTION_CHANGED = "collection changed"  # name, description, visibility or embedder
    COLLECTION_DELETED = "collection deleted"  # with everything in it; into the trash, unless there is none
    COLLECTION_RESTORED = "collection restored"  # from the trash
    COLLECTION_REMOVED = "collection deleted for good"  # out of the trash
    LINK_CREATED = "link created"  # that opens a collection or a result without an account; detail has what it allows
    LINK_REVOKED = "link revoked"  # such a link
    MEMBER_CHANGED = "member changed"  # added to a collection, removed from it, or got another role in it
    ITEMS_UPLOADED = "items uploaded"  # detail has the number of each outcome
    ITEM_CHANGED = "item changed"  # detail has what of it
    ITEM_DELETED = "item deleted"  # into the trash, unless there is none
    ITEMS_CHANGED = "items changed"  # detail has what of them, and which
    ITEMS_DELETED = "items deleted"  # into the trash, unless there is none; detail has which
    ITEMS_RESTORED = "items restored"  # from the trash; detail has which
    ITEMS_REMOVED = "items deleted for good"  # out of the trash; detail has which
    TRASH_EMPTIED = "trash emptied"  # all items in the trash of a collection are deleted for good
    ITEMS_MOVED = "items moved"  # in both collections; detail has which, and the other collection
    ITEMS_COPIED = "items copied"  # in both collections; detail has which, and the other collection
    DUPLICATES_DISMISSED = "duplicates dismissed"  # a group is none; detail has the number of its pictures
    DUPLICATES_RESTORED = "duplicates restored"  # dismissed groups may come back; detail has the number of pictures
    JOB_SUBMITTED = "job submitted"  # an index job, a search, a map, or one that compares or reads pictures
    JOB_CANCELLED = "job cancelled"  # cancel was requested
    JOB_RETRIED = "job retried"  # its failed units got new attempts
    JOBS_DELETED = "jobs deleted"  # detail has their number
    QUEUE_PAUSED = "queue paused"  # workers claim no units of it
    QUEUE_RESUMED = "queue resumed"  # workers claim units again
    UNITS_REQUEUED = "units requeued"  # dead units got new attempts
    RUN_ADDED = "evaluation added"  # a report was uploaded, or reviewed queries are rerun
    RUN_DELETED = "evaluation deleted"  # an evaluation run


@dataclass(frozen=True)
class AuditFilters:
    """Filters of entries; None does not filter."""

    user_name: str | None = None
    action: Action | None = None
    collection_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None


def record(
    session: Session,
    user: Actor | User | None,
    action: Action,
    *,
    target: str | None = None,
    target_id: UUID | None = None,
    collection_id: UUID | None = None,
    address: str | None = None,
    **detail: Any,
) -> None:
    """Write an entry; ``target`` is the name of the target, ``address`` that of the client."""
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


def page(
    session: Session, filters: AuditFilters, *, after: UUID | None = None, limit: int = 50
) -> Sequence[AuditEntry]:
    """Return entries, newest first; ``after`` is the last key of the page before."""
    query = sa.select(AuditEntry).order_by(AuditEntry.id.desc()).limit(limit)
    conditions = {
        AuditEntry.user_name: filters.user_name,
        AuditEntry.action: filters.action.value if filters.action else None,
        AuditEntry.collection_id: filters.collection_id,
    }
    for column, value in conditions.items():
        if value is not None:
            query = query.where(column == value)
    # the bounds on the key are for the index
    if filters.since is not None:
        query = query.where(AuditEntry.created_at >= filters.since, AuditEntry.id >= _key_at(filters.since, -_SKEW))
    if filters.until is not None:
        query = query.where(AuditEntry.created_at < filters.until, AuditEntry.id < _key_at(filters.until, _SKEW))
    if after is not None:
        query = query.where(AuditEntry.id < after)
    return session.scalars(query).all()


def _key_at(moment: datetime, offset: timedelta) -> UUID:
    """Return the smallest key created at ``moment + offset``: a UUID v7 starts with 48 bits of milliseconds."""
    milliseconds = int((moment.timestamp() + offset.total_seconds()) * 1000)
    return UUID(int=min(max(milliseconds, 0), (1 << 48) - 1) << 80)
