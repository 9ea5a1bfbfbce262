"""Which items have a vector of which embedder, as far as the database knows."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import ItemKind, ItemState
from retllm.db.tables import Collection, Embedding, EmbeddingModel, Item
from retllm.settings import Settings, public_name


def embedder_of(collection: Collection, settings: Settings) -> str:
    """The embedder that searches of the collection use first, by the name that results keep.

    It is the one that the collection names, or the main one of the settings where it names none, or one that is not in
    force any more.
    """
    chosen = collection.embedder
    return chosen if chosen in settings.embedders else public_name(settings.embedder_name)


def current_model(session: Session, embedder: str) -> EmbeddingModel | None:
    """The newest shape of the embedder that a worker has loaded here; None before the first."""
    query = sa.select(EmbeddingModel).filter_by(name=public_name(embedder)).order_by(EmbeddingModel.id.desc()).limit(1)
    return session.scalar(query)


def is_ready() -> sa.ColumnElement[bool]:
    """True for an item that is there; said so that the planner sees the condition of the indexes on such items."""
    return Item.state == sa.literal(ItemState.READY, Item.__table__.c.state.type, literal_execute=True)


def up_to_date(image_weight: float) -> sa.ColumnElement[bool]:
    """True where the joined embedding, whichever model's, was made from the item as it is now."""
    return sa.and_(
        Embedding.item_id == Item.id,
        # so that the index which holds all of this condition serves it
        Embedding.collection_id == Item.collection_id,
        Embedding.item_version == Item.version,
        sa.or_(Item.kind != ItemKind.BOTH, Embedding.image_weight == image_weight),
    )


def fresh_embedding(model_id: UUID, image_weight: float) -> sa.ColumnElement[bool]:
    """True where the joined embedding was made by this model from the item as it is now."""
    return sa.and_(up_to_date(image_weight), Embedding.model_id == model_id)


def has_vector(model: EmbeddingModel | None, image_weight: float) -> sa.ColumnElement[bool]:
    """True for an item that this model has embedded as it is now; never, without a model."""
    if model is None:
        return sa.false()
    return sa.exists(Embedding.item_id).where(fresh_embedding(model.id, image_weight))


def is_indexed(session: Session, collection_id: UUID, model: EmbeddingModel | None) -> bool:
    """Whether anything in the collection has a vector of this model."""
    if model is None:
        return False
    any_vector = sa.select(Embedding.item_id).filter_by(collection_id=collection_id, model_id=model.id).limit(1)
    return session.scalar(any_vector) is not None


def keep_error(session: Session, item_id: UUID, error: str) -> None:
    """Write down why an item could not be embedded."""
    session.execute(sa.update(Item).where(Item.id == item_id, is_ready()).values(error=error))


def clear_errors(session: Session, item_ids: Sequence[UUID]) -> None:
    """Forget why these items could not be embedded: they are now. The caller holds their locks."""
    session.execute(sa.update(Item).where(Item.id.in_(item_ids), Item.error.is_not(None)).values(error=None))
