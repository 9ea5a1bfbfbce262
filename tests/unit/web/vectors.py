"""Vectors as an index job would store them, without a worker."""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from tests.factories import make_embedding, make_model, store

from retllm.db.session import transaction
from retllm.db.tables import Item
from retllm.settings import Settings
from retllm_web.http.services import Services


def embed_items(
    served: Services,
    settings: Settings,
    collection: str,
    embedder: str,
    *,
    revision: str = "r",
    limit: int | None = None,
) -> uuid.UUID:
    """Give the items of a collection, or the first ``limit`` of them, a vector; return the model's key."""
    with transaction(served.sessions) as session:
        model = make_model(embedder, revision=revision)
        items = sa.select(Item).where(Item.collection_id == uuid.UUID(collection)).order_by(Item.id).limit(limit)
        weight = settings.item_image_weight
        store(session, model, *(make_embedding(one, model.id, image_weight=weight) for one in session.scalars(items)))
    return model.id
