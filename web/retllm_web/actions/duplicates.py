"""Near-duplicates of a collection: look for them, read the groups, decide on them. Shared by the API and the pages."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from retllm.db.many import one_of
from retllm.db.session import run_transaction
from retllm.db.tables import Collection, Item
from retllm.duplicates import replacing
from retllm.duplicates.submit import submit_duplicates
from retllm.duplicates.views import Group
from retllm.history.job_views import JobView
from retllm.identity.access import Right, collection_for
from retllm.identity.actor import Actor
from retllm.identity.audit import Action
from retllm.indexing.indexed import current_model, embedder_of, has_vector
from retllm.media.decoding.perceptual import HASH_BITS
from retllm_web.actions import submissions
from retllm_web.actions.auditing import record_collection
from retllm_web.actions.item_views import ItemView, item_views
from retllm_web.http.services import services


class DuplicateView(BaseModel):
    """A picture of a group."""

    item: ItemView
    keep: bool = Field(
        description="whether it is the one to keep: that with the most pixels, then with the most bytes, then the first"
    )
    distance: int = Field(
        description=f"in how many of {HASH_BITS} bits its perceptual hash differs from that of the picture that the "
        "group was formed around"
    )
    similarity: float | None = Field(description="cosine similarity of their vectors; null if only hashes are near")


class DuplicateGroupView(BaseModel):
    """Pictures that are nearly the same, the one to keep first."""

    id: UUID
    pictures: list[DuplicateView]


class DuplicatesView(BaseModel):
    """Groups of near-duplicates of a collection, the largest first."""

    job_id: UUID | None = Field(description="the newest job that looks for them; null if there is none (any more)")
    compared_at: datetime | None = Field(description="when the groups were formed; null if no job has ended")
    pictures: int | None = Field(description="how many pictures were compared then")
    out_of_date: bool = Field(description="whether pictures were added since, which only a new job compares")
    groups: list[DuplicateGroupView]
    next: UUID | None = Field(description="pass as `after` to get the next page; null on the last page")


def look(actor: Actor, collection_id: UUID, *, idempotency_key: str | None = None) -> JobView:
    """Submit a job that looks for near-duplicates.

    Raises:
        NotFound, Forbidden: ``actor`` may not change the collection.
        Conflict: it is empty, such a job is not over yet, or the idempotency key belongs to another request.
    """
    settings = services().settings
    return submissions.submit(
        actor,
        lambda session: submit_duplicates(session, actor, collection_id, settings, idempotency_key=idempotency_key),
    )


def dismiss(actor: Actor, collection_id: UUID, group_id: UUID) -> int:
    """Note that the pictures of a group are no duplicates, so that no job brings them together again.

    Returns:
        The number of the pictures.

    Raises:
        NotFound, Forbidden: ``actor`` may not change the collection, or there is no such group (any more).
    """

    def write(session: Session) -> int:
        collection = collection_for(session, actor, collection_id, Right.CHANGE)
        number = replacing.dismiss(session, collection_id, group_id)
        record_collection(session, Action.DUPLICATES_DISMISSED, collection, user=actor, count=number)
        return number

    return run_transaction(services().sessions, write)


def restore(actor: Actor, collection_id: UUID) -> int:
    """Let the next job bring back the groups that were dismissed; return the number of their pictures.

    Raises:
        NotFound, Forbidden: ``actor`` may not change the collection.
    """

    def write(session: Session) -> int:
        collection = collection_for(session, actor, collection_id, Right.CHANGE)
        number = replacing.forget_dismissals(session, collection_id)
        if number:
            record_collection(session, Action.DUPLICATES_RESTORED, collection, user=actor, count=number)
        return number

    return run_transaction(services().sessions, write)


def group_views(session: Session, collection: Collection, groups: Sequence[Group]) -> list[DuplicateGroupView]:
    """Return groups as the API and the pages show them."""
    items = [picture.item for group in groups for picture in group.pictures]
    settings = services().settings
    indexed = has_vector(current_model(session, embedder_of(collection, settings)), settings.item_image_weight)
    with_vector = set(session.scalars(sa.select(Item.id).where(one_of(Item.id, [item.id for item in items]), indexed)))
    views = {view.id: view for view in item_views(session, [(item, item.id in with_vector) for item in items])}
    return [
        DuplicateGroupView(
            id=group.id,
            pictures=[
                DuplicateView(
                    item=views[picture.item.id],
                    keep=picture.best,
                    distance=picture.distance,
                    similarity=picture.similarity,
                )
                for picture in group.pictures
            ],
        )
        for group in groups
    ]
