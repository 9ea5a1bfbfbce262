"""Inserts a job, once for each idempotency key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from retllm.db.deletion import WITH_DELETED
from retllm.db.enums import GOING_ON, JobKind
from retllm.db.jobs import Job
from retllm.db.locks import lock_collection
from retllm.db.tables import new_id
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
    collection_id: UUID | None,
    kind: JobKind,
    params: dict[str, Any],
    key: str | None,
    *,
    job_id: UUID | None = None,
) -> tuple[Job, bool]:
    """Insert a job, or return the existing one with this user's idempotency key; the flag says whether it is new.

    A new job gets ``job_id`` if it is given. Without ``collection_id`` it is a search of several collections, which the
    caller has locked.

    Raises:
        NotFound: the collection was deleted meanwhile.
        Conflict: the key was used for a different request.
        InvalidInput: the key is empty or too long.
    """
    if key is not None and not 1 <= len(key) <= _MAX_KEY_LENGTH:
        raise InvalidInput(f"An Idempotency-Key has 1 to {_MAX_KEY_LENGTH} characters.")
    if collection_id is not None:
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


def current_job(kind: JobKind, collection_id: UUID) -> sa.Select[Job]:
    """Return the query for a job of a kind in a collection: one that runs, else one that is queued, else the newest."""
    # written into the statement, so that the planner can match it to the partial index of the kind
    literal = sa.literal(kind, Job.__table__.c.kind.type, literal_execute=True)
    going_on = [(Job.state == state).desc() for state in GOING_ON]
    query = sa.select(Job).where(Job.collection_id == collection_id, Job.kind == literal)
    return query.order_by(*going_on, Job.id.desc()).limit(1)


def require_none_open(session: Session, job: Job, message: str) -> None:
    """Check that no other job of its kind goes on in the collection of a new job.

    Raises:
        Conflict: one does.
    """
    others = current_job(job.kind, job.one_collection).where(Job.id != job.id)
    other = session.scalar(others.where(Job.state.in_(GOING_ON)))
    if other is not None:
        raise Conflict(message, job_id=str(other.id))
