"""Audit entries for the actions of a request."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from flask import request
from sqlalchemy.orm import Session

from retllm.db.tables import Collection, User
from retllm.errors import Unauthorized
from retllm.identity import audit
from retllm.identity.actor import Actor
from retllm.identity.audit import Action
from retllm_web.http.auth import current_actor


def record(
    session: Session,
    action: Action,
    *,
    target: str | None = None,
    target_id: UUID | None = None,
    collection_id: UUID | None = None,
    user: Actor | User | None = None,
    **detail: Any,
) -> None:
    """Record an action of this request's account in the audit log, in the transaction of the action itself."""
    audit.record(
        session,
        user or _actor_or_none(),
        action,
        target=target,
        target_id=target_id,
        collection_id=collection_id,
        address=request.remote_addr,
        **detail,
    )


def record_collection(
    session: Session, action: Action, collection: Collection, *, user: Actor | None = None, **detail: Any
) -> None:
    """Record an action on a collection, or on what is in it, in the audit log."""
    key = collection.id
    record(session, action, target=collection.name, target_id=key, collection_id=key, user=user, **detail)


def _actor_or_none() -> Actor | None:
    try:
        return current_actor()
    except Unauthorized:
        return None
