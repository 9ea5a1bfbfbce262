"""Submission of an index job; the list of items to embed is fixed at submission."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import JobKind, Stage
from retllm.db.jobs import Unit
from retllm.db.plans import joined
from retllm.db.tables import Collection, EmbeddingModel, Item
from retllm.errors import Conflict
from retllm.identity.access import Right, collection_for
from retllm.identity.actor import Actor
from retllm.indexing import coverage
from retllm.indexing.indexed import current_model, embedder_of, has_items, has_vector, is_ready
from retllm.indexing.vector_indexes import give_up_index
from retllm.queue import lifecycle
from retllm.queue.claim import Claim
from retllm.queue.routing import Notification
from retllm.queue.submission import Submitted, insert_job
from retllm.settings import Settings

Payload = dict[str, Any]


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
    embedder, so that an embedder that can't be loaded fails only its own units. The list is made for the version of
    the embedder that workers loaded last; a worker with a newer one adds units for the rest (``replan``), and if there
    is nothing to embed, a unit without items asks for that.

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
    if not has_items(session, collection_id):
        raise Conflict("The collection is empty: upload something first.")
    ready = sa.select(Item.id).where(Item.collection_id == collection_id, is_ready())
    units = lifecycle.add_units(session, job, Stage.EMBED, _plan(session, ready, names, settings))
    return Submitted(job, units, created=True)


def _plan(session: Session, ready: sa.Select[UUID], embedders: Sequence[str], settings: Settings) -> list[Payload]:
    payloads: list[Payload] = []
    for name in embedders:
        model = current_model(session, name)
        missing = _to_embed(session, ready, model, settings)
        if model is not None:
            missing = [{**payload, "model": str(model.id)} for payload in missing or [{"items": []}]]
        payloads += missing if name == embedders[0] else [{**payload, "embedder": name} for payload in missing]
    return payloads


def replan(session: Session, claim: Claim, model: EmbeddingModel, settings: Settings) -> list[Notification]:
    """Add units for what an index job left out because an older version of a unit's embedder has its vectors.

    ``model`` is the version that will embed the claimed unit. Only the first call for it adds units. Returns the units
    to notify workers of.
    """
    job = lifecycle.lock_job(session, claim.job_id)
    planned = sa.select(Unit.id).where(Unit.job_id == claim.job_id, Unit.payload["model"].astext == str(model.id))
    if job is None or job.cancel_requested or session.scalar(planned.limit(1)) is not None:
        return []
    embedder = Unit.payload["embedder"].astext.is_not_distinct_from(claim.payload.get("embedder"))
    ready = sa.select(Item.id).where(Item.collection_id == job.collection_id, is_ready())
    missing = _to_embed(session, ready.where(in_no_unit(job.id, embedder)), model, settings)
    payloads = [{**claim.payload, **payload, "model": str(model.id)} for payload in missing]
    return lifecycle.append_units(session, job, Stage.EMBED, payloads)


def items_in_units(job_id: UUID, *conditions: sa.ColumnElement[bool]) -> sa.Select[UUID]:
    """Return the items in units for vectors of a job, of those units for which the conditions hold."""
    item = sa.cast(sa.func.jsonb_array_elements_text(Unit.payload["items"]), sa.Uuid).label("item_id")
    return sa.select(item).where(Unit.job_id == job_id, Unit.stage == Stage.EMBED, *conditions)


def in_no_unit(job_id: UUID, *conditions: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """Return the condition that an item is in none of the units of :func:`items_in_units`."""
    # NOT IN would compare each item with all of theirs, if the planner expects these to be too many for a hash table
    theirs = items_in_units(job_id, *conditions).subquery()
    return ~sa.exists().where(theirs.c.item_id == Item.id)


def embedders_for(collection: Collection, settings: Settings) -> list[str]:
    """Return the public names of all configured embedders, the main one of the collection first."""
    used = embedder_of(collection, settings)
    return sorted(settings.embedders, key=lambda name: name != used)


def embedding_params(embedders: Sequence[str], settings: Settings) -> dict[str, Any]:
    """Return the parameters of a job that embeds items with these embedders."""
    main, *further = embedders
    params: dict[str, Any] = {"embedder": main, "item_image_weight": settings.item_image_weight}
    return {**params, "extra_embedders": further} if further else params


def to_embed(session: Session, items: sa.Select[UUID], params: Mapping[str, Any], settings: Settings) -> list[Payload]:
    """Return the payloads of units for the items among the selected ones that lack a vector of a job's embedders."""
    payloads = _to_embed(session, items, current_model(session, params["embedder"]), settings)
    for name in params.get("extra_embedders", []):
        missing = _to_embed(session, items, current_model(session, name), settings)
        payloads += [{**payload, "embedder": name} for payload in missing]
    return payloads


def _to_embed(
    session: Session, ready: sa.Select[UUID], model: EmbeddingModel | None, settings: Settings
) -> list[Payload]:
    if model is not None:
        ready = ready.where(~has_vector(model, settings.item_image_weight))
    keys = [row.id for row in joined(session, ready.order_by(Item.id))]
    first = give_up_index(session, model.id, keys) if model is not None else []
    items, size = [str(key) for key in keys], settings.index_unit_items
    return first + [{"items": items[start : start + size]} for start in range(0, len(items), size)]
