"""Submission of a job that makes the map of a collection."""

from __future__ import annotations

from functools import partial
from uuid import UUID

from sqlalchemy.orm import Session

from retllm.db.enums import JobKind, Stage
from retllm.errors import Conflict
from retllm.identity.access import Right, collection_for
from retllm.identity.actor import Actor
from retllm.indexing.indexed import current_model, embedder_of, is_indexed
from retllm.queue import lifecycle
from retllm.queue.submission import Submitted, current_job, insert_job, require_none_open
from retllm.settings import Settings

MAP = "map"
"""The key in the payload of the one unit of such a job."""


def submit_map(
    session: Session, actor: Actor, collection_id: UUID, settings: Settings, *, idempotency_key: str | None = None
) -> Submitted:
    """Submit a job that lays out the vectors of a collection, which its main embedder made.

    Raises:
        NotFound: the collection does not exist.
        Forbidden: this account may not change it.
        Conflict: no item is indexed, such a job is not over yet, or the idempotency key belongs to a different request.
    """
    collection = collection_for(session, actor, collection_id, Right.CHANGE)
    params = {"embedder": embedder_of(collection, settings)}
    job, created = insert_job(session, actor, collection_id, JobKind.MAP, params, idempotency_key)
    if not created:
        return Submitted(job, [], created=False)
    if not is_indexed(session, collection_id, current_model(session, params["embedder"])):
        raise Conflict("No item of the collection is indexed yet: a map is made of the vectors of indexed items.")
    require_none_open(session, job, "The map of this collection is being made already.")
    units = lifecycle.add_units(session, job, Stage.MEDIA, [{MAP: True, "items": []}])
    return Submitted(job, units, created=True)


of_collection = partial(current_job, JobKind.MAP)
"""Returns the query for the newest job of this kind in a collection."""
