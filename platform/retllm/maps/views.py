"""Read what is known of the map of a collection."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.jobs import Job
from retllm.db.maps import MapResult
from retllm.db.tables import Collection, Embedding, Item
from retllm.indexing.counts import counts_of
from retllm.indexing.indexed import current_model, embedder_of, is_ready
from retllm.maps.submit import of_collection
from retllm.settings import Settings


@dataclass(frozen=True)
class State:
    """What is known of the map of a collection.

    Attributes:
        result: what the map is the result of; None if there is none.
        job: the newest job; None if there is none any more.
        out_of_date: whether items were indexed that the map does not have, or the embedder is another one.
    """

    result: MapResult | None
    job: Job | None
    out_of_date: bool


def state_of(session: Session, collection: Collection, settings: Settings) -> State:
    """Return what is known of the map of a collection."""
    result = session.get(MapResult, collection.id)
    return State(
        result=result,
        job=session.scalar(of_collection(collection.id)),
        out_of_date=result is not None and _is_out_of_date(session, collection, result, settings),
    )


def _is_out_of_date(session: Session, collection: Collection, result: MapResult, settings: Settings) -> bool:
    model = current_model(session, embedder_of(collection, settings))
    if model is None or model.id != result.model_id:
        return True
    counts = counts_of(session, [collection.id], settings.item_image_weight)[collection.id]
    if counts.embedded[model.id] > result.items:
        return True
    # deletions may hide in the counts that others came
    own = Embedding.collection_id == collection.id, Embedding.model_id == model.id
    later = sa.select(Embedding.item_id).join(Item, Item.id == Embedding.item_id).where(*own, is_ready())
    # a range of the index of all three
    place = sa.tuple_(Embedding.collection_id, Embedding.model_id, Embedding.item_id)
    after = place > sa.tuple_(collection.id, model.id, result.through)
    order = (Embedding.collection_id, Embedding.model_id, Embedding.item_id)
    return session.scalar(later.where(after).order_by(*order).limit(1)) is not None
