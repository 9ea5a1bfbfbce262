"""Vectors as an index job would leave them, without a worker."""

from __future__ import annotations

import uuid

import sqlalchemy as sa

from retllm.db.session import transaction
from retllm.db.tables import Embedding, EmbeddingModel, Item, new_id
from retllm.settings import Settings
from retllm_web.http.services import Services


def embed_items(
    served: Services,
    settings: Settings,
    collection: str,
    embedder: str,
    *,
    revision: str = "r",
    most: int | None = None,
) -> uuid.UUID:
    """Give the items of a collection, or the first ``most`` of them, a vector of an embedder; the model's key."""
    with transaction(served.sessions) as session:
        model = EmbeddingModel(id=new_id(), name=embedder, revision=revision, dimension=2, preprocessing_hash="h")
        session.add(model)
        session.flush()
        items = sa.select(Item).where(Item.collection_id == uuid.UUID(collection)).order_by(Item.id).limit(most)
        session.add_all(
            Embedding(
                item_id=item.id,
                model_id=model.id,
                collection_id=item.collection_id,
                item_version=item.version,
                image_weight=settings.item_image_weight,
                vector=[1.0, 0.0],
            )
            for item in session.scalars(items)
        )
    return model.id
