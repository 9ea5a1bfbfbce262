"""Inserts a job, once for each idempotency key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from retllm.db.deletion import WITH_DELETED
from retllm.db.enums import JobKind
from retllm.db.locks import lock_collection
from retllm.db.tables import Job, new_id
from retllm.errors import Conflict, InvalidInput
from retllm.identity.actor import Actor
from retllm.queue.routing import Notification

_MAX_KEY_LENGTH = 200


@dataclass(frozen=True)
class Submitted:
    """A new job (``created``), or the existing one with the same idempotency key."""

    job: Job
    units: list[Notification]
    created: bool


def insert_job(
    session: Session,
    actor: Actor,
    collection_id: UUID,
    kind: JobKind,
    params: dict[str, Any],
    key: str | None,
    *,
    job_id: UUID | None = None,
) -> tuple[Job, bool]:
    """Insert a job, or return the existing one with this user's idempotency key; the flag says whether it is new.

    A new job gets ``job_id`` if it is given.

    Raises:
        NotFound: the collection was deleted meanwhile.
        Conflict: the key was used for a different request.
        InvalidInput: the key is empty or too long.
    """
    if key is not None and not 1 <= len(key) <= _MAX_KEY_LENGTH:
        raise InvalidInput(f"An Idempotency-Key has 1 to {_MAX_KEY_LENGTH} characters.")
    lock_collection(session, collection_id)
    values = {"kind": kind, "user_id": actor.id, "collection_id": collection_id, "params": params}
    row = insert(Job).values(id=job_id or new_id(), idempotency_key=key, **values)
    once = row.on_conflict_do_nothing(index_elements=["user_id", "idempotency_key"]).returning(Job)
    same = (Job.user_id == actor.id, Job.idempotency_key == key)
    existing = None
    inserted = session.scalar(once)
    if inserted is None and (existing := session.scalar(sa.select(Job).where(*same))) is None:
        # that of a deleted collection
        session.execute(sa.update(Job).where(*same).values(idempotency_key=None).execution_options(**WITH_DELETED))
        inserted = session.scalars(once).one()
    if existing is None:
        assert inserted is not None
        return inserted, True
    if (existing.kind, existing.collection_id, existing.params) != (kind, collection_id, params):
        raise Conflict("This Idempotency-Key was used for a different request.", job_id=str(existing.id))
    return existing, False
