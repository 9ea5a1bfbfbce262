"""What is known of the text in the pictures of a collection; the cost does not grow with their number."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.jobs import Job
from retllm.db.tables import Collection, Item
from retllm.indexing.indexed import is_ready
from retllm.ocr.submit import of_collection

COUNTED = 1_000
"""So many unread pictures are counted; of more it is only known that they are more."""


@dataclass(frozen=True)
class State:
    """How far the pictures of a collection are read.

    Attributes:
        chosen_at: when somebody first asked for it; None if nobody did.
        job: the newest job; None if there is none (any more).
        unread: how many pictures nobody has read, at most ``COUNTED`` + 1. Pictures that can't be read are among them.
    """

    chosen_at: datetime | None
    job: Job | None
    unread: int


def state_of(session: Session, collection: Collection) -> State:
    """Return how far the pictures of a collection are read."""
    some = sa.select(Item.id).where(Item.collection_id == collection.id, *is_unread()).limit(COUNTED + 1)
    return State(
        chosen_at=collection.ocr_chosen_at,
        job=session.scalar(of_collection(collection.id)),
        unread=session.scalar(sa.select(sa.func.count()).select_from(some.subquery())) or 0,
    )


def has_unread(session: Session, collection_id: UUID) -> bool:
    """Return whether a collection has pictures that nobody has read."""
    query = sa.select(Item.id).where(Item.collection_id == collection_id, *is_unread())
    return session.scalar(query.limit(1)) is not None


def is_unread() -> tuple[sa.ColumnElement[bool], ...]:
    """Return the conditions for pictures that nobody has read, as their index has them."""
    return is_ready(), Item.ocr_text.is_(None), Item.picture_key.is_not(None)
