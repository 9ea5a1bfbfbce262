"""Submission of a job that reads the text in pictures; which ones is fixed by its first unit."""

from __future__ import annotations

from functools import partial
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import JobKind, Stage
from retllm.db.tables import Collection
from retllm.errors import Conflict
from retllm.identity.access import Right, collection_for
from retllm.identity.actor import Actor
from retllm.indexing.indexed import has_items
from retllm.queue import lifecycle
from retllm.queue.submission import Submitted, current_job, insert_job, require_none_open

STEP = "ocr"
"""The key in the payload of a unit that says what it does."""
PLAN, READ = "plan", "read"
"""Its values: list the pictures; read the text in some of them."""


def submit_ocr(
    session: Session, actor: Actor, collection_id: UUID, *, again: bool = False, idempotency_key: str | None = None
) -> Submitted:
    """Submit a job that reads the text in the pictures of a collection, and note that somebody chose that.

    Args:
        again: read all pictures, and not only those that nobody has read.

    Raises:
        NotFound: the collection does not exist.
        Forbidden: this account may not change it.
        Conflict: the collection has no item, such a job is not over yet, or the idempotency key belongs to a different
            request.
    """
    collection_for(session, actor, collection_id, Right.CHANGE)
    # before the job, as all locks
    chosen = sa.update(Collection).where(Collection.id == collection_id, Collection.ocr_chosen_at.is_(None))
    session.execute(chosen.values(ocr_chosen_at=sa.func.now()).execution_options(synchronize_session=False))
    job, created = insert_job(session, actor, collection_id, JobKind.OCR, {"again": again}, idempotency_key)
    if not created:
        return Submitted(job, [], created=False)
    if not has_items(session, collection_id):
        raise Conflict("The collection is empty: upload something first.")
    require_none_open(session, job, "The text in the pictures of this collection is being read already.")
    units = lifecycle.add_units(session, job, Stage.MEDIA, [{STEP: PLAN, "items": []}])
    return Submitted(job, units, created=True)


of_collection = partial(current_job, JobKind.OCR)
"""Returns the query for the newest job of this kind in a collection."""
