"""The embedders of a collection: the coverage of each, the main embedder, and the change to another one.

To change the embedder, an index job adds the vectors of the new one beside those in use; then the collection is
switched to it; finally the old vectors are removed.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.locks import lock_collection
from retllm.db.session import Sessions, run_transaction
from retllm.db.tables import Collection, Embedding, EmbeddingModel, Item
from retllm.embedding.info import not_configured
from retllm.errors import Conflict, NotFound
from retllm.indexing.counts import Counts, counts_of
from retllm.indexing.indexed import current_model, embedder_of
from retllm.settings import Settings, public_name

# vectors removed in one transaction
_BATCH = 5000


@dataclass(frozen=True)
class Coverage:
    """What one version of an embedder has embedded in a collection.

    Attributes:
        model_id, revision: null for a configured embedder that no worker has loaded yet.
        in_force: whether the embedder is configured and this is its newest version.
        in_use: whether it is the main embedder of the collection.
        embedded: number of items with an up-to-date vector.
        failed: number of items without one whose last embedding failed.
        missing: number of other items without one.
        vectors: number of all its vectors in the collection, including stale ones.
    """

    name: str
    model_id: UUID | None
    revision: str | None
    in_force: bool
    in_use: bool
    embedded: int
    failed: int
    missing: int
    vectors: int


def named(name: str, settings: Settings) -> str:
    """Return the public name of a configured embedder.

    Raises:
        InvalidInput: the embedder is not configured.
    """
    public = public_name(name)
    if public not in settings.embedders:
        raise not_configured(public, settings, field="embedder")
    return public


def coverage(session: Session, collection: Collection, settings: Settings) -> list[Coverage]:
    """Return every configured embedder, the main one first, then every other model that has vectors in the collection.

    The number of database queries does not depend on the number of models.
    """
    counts = counts_of(session, [collection.id], settings.item_image_weight)[collection.id]
    used = embedder_of(collection, settings)
    models = session.scalars(sa.select(EmbeddingModel).order_by(EmbeddingModel.id.desc())).all()
    newest: dict[str, EmbeddingModel] = {}
    for model in models:
        newest.setdefault(model.name, model)
    names = sorted(settings.embedders, key=lambda name: name != used)
    found = [_coverage(counts, name, newest.get(name), in_force=True, in_use=name == used) for name in names]
    listed = {entry.model_id for entry in found}
    return found + [
        _coverage(counts, model.name, model, in_force=False, in_use=False)
        for model in models
        if model.id not in listed and counts.vectors[model.id]
    ]


def _coverage(counts: Counts, name: str, model: EmbeddingModel | None, *, in_force: bool, in_use: bool) -> Coverage:
    key = model.id if model is not None else None
    embedded, failed = counts.embedded[key] if key else 0, counts.failed_without(key)
    return Coverage(
        name=name,
        model_id=key,
        revision=model.revision if model is not None else None,
        in_force=in_force,
        in_use=in_use,
        embedded=embedded,
        failed=failed,
        missing=counts.kinds.total() - embedded - failed,
        vectors=counts.vectors[key] if key else 0,
    )


def use(session: Session, collection: Collection, name: str | None, settings: Settings) -> None:
    """Make this embedder the main one of ``collection`` for new searches; None means the default of the settings.

    Earlier searches are not affected. Items whose embedding failed do not prevent the change.

    Raises:
        NotFound: the collection was deleted.
        InvalidInput: the embedder is not configured.
        Conflict: it has not embedded every item yet.
    """
    chosen = named(name, settings) if name is not None else public_name(settings.embedder_name)
    lock_collection(session, collection.id, alone=True)
    session.refresh(collection)
    if chosen != embedder_of(collection, settings):
        entries = coverage(session, collection, settings)
        (current,) = [entry for entry in entries if entry.name == chosen and entry.in_force]
        if current.missing:
            total = current.embedded + current.failed + current.missing
            raise Conflict(
                f"{current.missing:,} of {total:,} items have no vector of {chosen} yet: index the collection with it, "
                "then use it.",
                missing=current.missing,
            )
    collection.embedder = chosen if name is not None else None
    session.flush()


def remove_vectors(sessions: Sessions, collection_id: UUID, model_id: UUID, settings: Settings) -> int:
    """Remove the vectors of an unused model from a collection; return their number.

    Each batch has its own transaction, so that a large collection does not block others. After an interruption, call it
    again.

    Raises:
        NotFound: the collection or model does not exist (any more).
        Conflict: searches of the collection use the model.
    """

    def remove(session: Session) -> int:
        _require_unused(session, collection_id, model_id, settings)
        return _remove_some(session, collection_id, model_id)

    total = 0
    while True:
        removed = run_transaction(sessions, remove)
        total += removed
        if removed < _BATCH:
            return total


def _require_unused(session: Session, collection_id: UUID, model_id: UUID, settings: Settings) -> None:
    # lock it, so that the collection can't be switched to the model concurrently
    collection = session.get(Collection, collection_id, with_for_update={"read": True})
    model = session.get(EmbeddingModel, model_id)
    if collection is None or model is None:
        raise NotFound("There is no such model in this collection.")
    used = current_model(session, embedder_of(collection, settings))
    if used is not None and used.id == model_id:
        raise Conflict(f"Searches of this collection use {model.name}: change its embedder first.")


def _remove_some(session: Session, collection_id: UUID, model_id: UUID) -> int:
    some = (
        sa.select(Embedding.item_id)
        # first the items, which the counts of vectors lock too
        .join(Item, Item.id == Embedding.item_id)
        .where(Embedding.collection_id == collection_id, Embedding.model_id == model_id)
        .order_by(Embedding.item_id)
        .limit(_BATCH)
        .with_for_update(of=Item, read=True)
        .cte("some")  # evaluated exactly once; a subquery may not be
    )
    deletion = sa.delete(Embedding).where(
        Embedding.model_id == model_id, Embedding.item_id.in_(sa.select(some.c.item_id))
    )
    return len(
        session.scalars(deletion.returning(Embedding.item_id).execution_options(synchronize_session=False)).all()
    )
