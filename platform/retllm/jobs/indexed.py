"""Which items have a vector of which embedder, as far as the database knows."""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import ItemKind
from retllm.db.tables import Embedding, EmbeddingModel, Item
from retllm.settings import public_name


def current_model(session: Session, embedder: str) -> EmbeddingModel | None:
    """The newest shape of the embedder that a worker has loaded here; None before the first."""
    query = sa.select(EmbeddingModel).filter_by(name=public_name(embedder)).order_by(EmbeddingModel.id.desc()).limit(1)
    return session.scalar(query)


def fresh_embedding(model_id: UUID, image_weight: float) -> sa.ColumnElement[bool]:
    """True where the joined embedding was made by this model from the item as it is now."""
    return sa.and_(
        Embedding.item_id == Item.id,
        Embedding.model_id == model_id,
        Embedding.item_version == Item.version,
        sa.or_(Item.kind != ItemKind.BOTH, Embedding.image_weight == image_weight),
    )


def is_indexed(session: Session, collection_id: UUID, model: EmbeddingModel | None) -> bool:
    """Whether anything in the collection has a vector of this model."""
    if model is None:
        return False
    any_vector = sa.select(Embedding.item_id).filter_by(collection_id=collection_id, model_id=model.id).limit(1)
    return session.scalar(any_vector) is not None
