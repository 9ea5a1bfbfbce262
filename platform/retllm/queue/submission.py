"""Accepting a job, once for each idempotency key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from retllm.db.enums import JobKind
from retllm.db.locks import lock_collection
from retllm.db.tables import Job, new_id
from retllm.errors import Conflict, InvalidInput
from retllm.identity.actor import Actor
from retllm.queue.notifications import Notification

_MAX_KEY_LENGTH = 200


@dataclass(frozen=True)
class Submitted:
    """A job that is accepted (``created``), or the one that the same idempotency key made before."""

    job: Job
    units: list[Notification]
    created: bool


def insert_job(
    session: Session, actor: Actor, collection_id: UUID, kind: JobKind, params: dict[str, Any], key: str | None
) -> tuple[Job, bool]:
    """The new job, or the one that this user's idempotency key stands for.

    Raises:
        NotFound: the collection was deleted just now.
        Conflict: the key was used for a different request.
        InvalidInput: the key is empty or too long.
    """
    if key is not None and not 1 <= len(key) <= _MAX_KEY_LENGTH:
        raise InvalidInput(f"An Idempotency-Key has 1 to {_MAX_KEY_LENGTH} characters.")
    lock_collection(session, collection_id)
    made = session.scalar(
        insert(Job)
        .values(
            id=new_id(), kind=kind, user_id=actor.id, collection_id=collection_id, params=params, idempotency_key=key
        )
        .on_conflict_do_nothing(index_elements=["user_id", "idempotency_key"])
        .returning(Job.id)
    )
    if made is not None:
        return session.get_one(Job, made), True
    before = session.scalars(sa.select(Job).filter_by(user_id=actor.id, idempotency_key=key)).one()
    if (before.kind, before.collection_id, before.params) != (kind, collection_id, params):
        raise Conflict("This Idempotency-Key was used for a different request.", job_id=str(before.id))
    return before, False
