"""Submission of an index job; the list of items to embed is fixed at submission."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import JobKind, Stage
from retllm.db.tables import Collection, Item
from retllm.errors import Conflict
from retllm.identity.access import Right, collection_for
from retllm.identity.actor import Actor
from retllm.indexing import coverage
from retllm.indexing.indexed import current_model, embedder_of, has_vector, is_ready
from retllm.queue import lifecycle
from retllm.queue.submission import Submitted, insert_job
from retllm.settings import Settings


def submit_index(
    session: Session,
    actor: Actor,
    collection_id: UUID,
    settings: Settings,
    *,
    embedder: str | None = None,
    idempotency_key: str | None = None,
) -> Submitted:
    """Submit a job that embeds every item of the collection without a vector of the configured embedders.

    With ``embedder``, use only that one; otherwise all of them, the main embedder of the collection first.

    The list of items is fixed here for each embedder; items added later need another index job. A unit has one
    embedder, so that an embedder that can't be loaded fails only its own units.

    Raises:
        NotFound: the collection does not exist.
        Forbidden: this account may not change it.
        InvalidInput: the embedder is not configured.
        Conflict: the collection has no item, or the idempotency key belongs to a different request.
    """
    collection = collection_for(session, actor, collection_id, Right.CHANGE)
    names = embedders_for(collection, settings) if embedder is None else [coverage.named(embedder, settings)]
    params = embedding_params(names, settings)
    job, created = insert_job(session, actor, collection_id, JobKind.INDEX, params, idempotency_key)
    if not created:
        return Submitted(job, [], created=False)
    ready = sa.select(Item.id).where(Item.collection_id == collection_id, is_ready())
    if session.scalar(ready.limit(1)) is None:
        raise Conflict("The collection is empty: upload something first.")
    units = lifecycle.add_units(session, job, Stage.EMBED, to_embed(session, ready, params, settings))
    lifecycle.finish_if_complete(session, job)
    return Submitted(job, units, created=True)


def embedders_for(collection: Collection, settings: Settings) -> list[str]:
    """Return the public names of all configured embedders, the main one of the collection first."""
    used = embedder_of(collection, settings)
    return sorted(settings.embedders, key=lambda name: name != used)


def embedding_params(embedders: Sequence[str], settings: Settings) -> dict[str, Any]:
    """Return the parameters of a job that embeds items with these embedders."""
    main, *further = embedders
    params: dict[str, Any] = {"embedder": main, "item_image_weight": settings.item_image_weight}
    return {**params, "extra_embedders": further} if further else params


def to_embed(
    session: Session, items: sa.Select[UUID], params: Mapping[str, Any], settings: Settings
) -> list[dict[str, Any]]:
    """Return the payloads of units for the items among the selected ones that lack a vector of a job's embedders."""
    payloads = _to_embed(session, items, params["embedder"], settings)
    for name in params.get("extra_embedders", []):
        payloads += [{**payload, "embedder": name} for payload in _to_embed(session, items, name, settings)]
    return payloads


def _to_embed(session: Session, ready: sa.Select[UUID], embedder: str, settings: Settings) -> list[dict[str, Any]]:
    model = current_model(session, embedder)
    if model is not None:
        ready = ready.where(~has_vector(model, settings.item_image_weight))
    items = [str(item) for item in session.scalars(ready.order_by(Item.id))]
    size = settings.index_unit_items
    return [{"items": items[start : start + size]} for start in range(0, len(items), size)]
