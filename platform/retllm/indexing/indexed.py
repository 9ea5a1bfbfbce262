"""Queries for which items have a vector of which embedder."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.counts import CollectionCount
from retllm.db.enums import ItemKind, ItemState
from retllm.db.tables import Collection, Embedding, EmbeddingModel, Item
from retllm.settings import Settings, public_name


def embedder_of(collection: Collection, settings: Settings) -> str:
    """Return the public name of the main embedder of the collection.

    It is the one that the collection names, or the default of the settings if the collection names none or one that is
    no longer configured.
    """
    chosen = collection.embedder
    return chosen if chosen in settings.embedders else public_name(settings.embedder_name)


def current_model(session: Session, embedder: str) -> EmbeddingModel | None:
    """Return the newest version of the embedder that a worker has loaded; None if no worker has loaded it yet."""
    query = sa.select(EmbeddingModel).filter_by(name=public_name(embedder)).order_by(EmbeddingModel.id.desc()).limit(1)
    return session.scalar(query)


def is_ready() -> sa.ColumnElement[bool]:
    """Return a condition for ready items, as a literal so that the planner can match it to partial indexes."""
    return Item.state == sa.literal(ItemState.READY, Item.__table__.c.state.type, literal_execute=True)


def has_content() -> sa.ColumnElement[bool]:
    """Return a condition for items that are not deleted: what is in the trash may be restored."""
    return Item.state != ItemState.DELETED


def up_to_date(image_weight: float) -> sa.ColumnElement[bool]:
    """Return a condition for a joined embedding, of any model, that was made from the current version of the item."""
    return sa.and_(
        Embedding.item_id == Item.id,
        # redundant, but lets a single index serve the whole condition
        Embedding.collection_id == Item.collection_id,
        Embedding.item_version == Item.version,
        sa.or_(Item.kind != ItemKind.BOTH, Embedding.image_weight == image_weight),
    )


def fresh_embedding(model_id: UUID, image_weight: float) -> sa.ColumnElement[bool]:
    """Return a condition for a joined embedding that this model made from the current version of the item."""
    return sa.and_(up_to_date(image_weight), Embedding.model_id == model_id)


def has_vector(model: EmbeddingModel | None, image_weight: float) -> sa.ColumnElement[bool]:
    """Return a condition for items whose current version this model has embedded; false if ``model`` is None."""
    if model is None:
        return sa.false()
    return sa.exists(Embedding.item_id).where(fresh_embedding(model.id, image_weight))


Among = Sequence[UUID] | sa.Select[UUID]


def is_indexed(session: Session, collection_id: UUID, model: EmbeddingModel | None) -> bool:
    """Return whether any item of the collection has a vector of this model."""
    return bool(indexed_among(session, [collection_id], model))


def indexed_among(session: Session, among: Among, *models: EmbeddingModel | None) -> set[UUID]:
    """Return those collections in which any item has a vector of one of these models."""
    keys = [model.id for model in models if model is not None]
    return _some(session, among, CollectionCount.model_id.in_(keys)) if keys else set()


def has_items(session: Session, collection_id: UUID) -> bool:
    """Return whether a collection has any ready item."""
    return bool(filled_among(session, [collection_id]))


def filled_among(session: Session, among: Among) -> set[UUID]:
    """Return those collections that have any ready item."""
    return _some(session, among, CollectionCount.model_id.is_(None))


def _some(session: Session, among: Among, of: sa.ColumnElement[bool]) -> set[UUID]:
    # to look for one row, the server may read those of other collections until it meets one
    key = CollectionCount.collection_id
    query = sa.select(key).where(key.in_(among), of).group_by(key).having(sa.func.sum(CollectionCount.count) > 0)
    return set(session.scalars(query))


def keep_error(session: Session, item_id: UUID, error: str) -> None:
    """Store the error of a failed embedding on the item."""
    session.execute(sa.update(Item).where(Item.id == item_id, has_content()).values(error=error))


def clear_errors(session: Session, item_ids: Sequence[UUID]) -> None:
    """Clear the errors of these items, which are embedded now. The caller holds their locks."""
    session.execute(sa.update(Item).where(Item.id.in_(item_ids), Item.error.is_not(None)).values(error=None))
