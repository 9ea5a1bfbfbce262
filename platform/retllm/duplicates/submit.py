"""Submission of a job that looks for near-duplicates; what it compares is fixed by its first unit."""

from __future__ import annotations

from functools import partial
from uuid import UUID

from sqlalchemy.orm import Session

from retllm.db.enums import JobKind, Stage
from retllm.errors import Conflict
from retllm.identity.access import Right, collection_for
from retllm.identity.actor import Actor
from retllm.indexing.indexed import embedder_of, has_items
from retllm.queue import lifecycle
from retllm.queue.submission import Submitted, current_job, insert_job, require_none_open
from retllm.settings import Settings

STEP = "step"
"""The key in the payload of a unit that says what it does."""
PLAN, HASH, NEIGHBOURS, GROUP = "plan", "hash", "neighbours", "group"
"""Its values: list the pictures; compute hashes; find near vectors; form the groups."""


def submit_duplicates(
    session: Session, actor: Actor, collection_id: UUID, settings: Settings, *, idempotency_key: str | None = None
) -> Submitted:
    """Submit a job that finds the pictures of a collection that are nearly the same.

    Raises:
        NotFound: the collection does not exist.
        Forbidden: this account may not change it.
        Conflict: the collection has no item, such a job is not over yet, or the idempotency key belongs to a different
            request.
    """
    collection = collection_for(session, actor, collection_id, Right.CHANGE)
    params = {"embedder": embedder_of(collection, settings)}
    job, created = insert_job(session, actor, collection_id, JobKind.DUPLICATES, params, idempotency_key)
    if not created:
        return Submitted(job, [], created=False)
    if not has_items(session, collection_id):
        raise Conflict("The collection is empty: upload something first.")
    require_none_open(session, job, "Near-duplicates of this collection are being looked for already.")
    units = lifecycle.add_units(session, job, Stage.MEDIA, [{STEP: PLAN, "items": []}])
    return Submitted(job, units, created=True)


of_collection = partial(current_job, JobKind.DUPLICATES)
"""Returns the query for the newest job of this kind in a collection."""
