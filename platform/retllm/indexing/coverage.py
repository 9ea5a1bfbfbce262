"""The embedders of one collection: what each has embedded there, which one searches use, and the change to another.

Re-embedding builds beside and then swaps: an index job writes the vectors of the next embedder beside those in use, the
collection is told to use it, and the old vectors go last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.locks import lock_collection
from retllm.db.session import Sessions, run_transaction
from retllm.db.tables import Collection, Embedding, EmbeddingModel, Item
from retllm.errors import Conflict, InvalidInput, NotFound
from retllm.indexing.indexed import current_model, embedder_of, is_ready, up_to_date
from retllm.settings import Settings, public_name

# vectors that go in one transaction
_BATCH = 5000


@dataclass(frozen=True)
class Coverage:
    """What one embedder in one shape has embedded in a collection.

    Attributes:
        model_id, revision: null for an embedder in force that no worker has loaded yet.
        in_force: workers serve it, and this is its newest shape.
        in_use: searches of the collection use it first.
        embedded: items whose vector is up to date.
        failed: items that have none, and that could not be embedded the last time.
        missing: the other items that have none.
        vectors: all its vectors here, stale ones too.
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
    """The name that results keep of an embedder in force.

    Raises:
        InvalidInput: it is none of those in force.
    """
    public = public_name(name)
    if public not in settings.embedders:
        raise InvalidInput(
            f"{public} is not one of the embedders here ({', '.join(settings.embedders)}).", field="embedder"
        )
    return public


def coverage(session: Session, collection: Collection, settings: Settings) -> list[Coverage]:
    """Every embedder in force, the one in use first, then every other model that still has vectors here.

    A fixed number of queries, however many models there are.
    """
    counted = _count(session, collection.id, settings.item_image_weight)
    used = embedder_of(collection, settings)
    shapes = session.scalars(sa.select(EmbeddingModel).order_by(EmbeddingModel.id.desc())).all()
    newest: dict[str, EmbeddingModel] = {}
    for shape in shapes:
        newest.setdefault(shape.name, shape)
    names = sorted(settings.embedders, key=lambda name: name != used)
    found = [counted.of(name, newest.get(name), in_force=True, in_use=name == used) for name in names]
    told = {one.model_id for one in found}
    return found + [
        counted.of(shape.name, shape, in_force=False, in_use=False)
        for shape in shapes
        if shape.id not in told and shape.id in counted.vectors
    ]


@dataclass(frozen=True)
class _Counted:
    """Counts of a collection, by model where they are of one."""

    items: int
    failed: int
    vectors: Mapping[UUID, int]
    embedded: Mapping[UUID, int]
    embedded_though_failed: Mapping[UUID, int]

    def of(self, name: str, model: EmbeddingModel | None, *, in_force: bool, in_use: bool) -> Coverage:
        key = model.id if model is not None else None
        embedded = self.embedded.get(key, 0) if key else 0
        failed = self.failed - (self.embedded_though_failed.get(key, 0) if key else 0)
        return Coverage(
            name=name,
            model_id=key,
            revision=model.revision if model is not None else None,
            in_force=in_force,
            in_use=in_use,
            embedded=embedded,
            failed=failed,
            missing=self.items - embedded - failed,
            vectors=self.vectors.get(key, 0) if key else 0,
        )


def _count(session: Session, collection_id: UUID, image_weight: float) -> _Counted:
    ready = (Item.collection_id == collection_id, is_ready())
    items = sa.select(sa.func.count()).select_from(Item).where(*ready)
    per_model = (
        sa.select(Embedding.model_id, sa.func.count())
        .where(Embedding.collection_id == collection_id)
        .group_by(Embedding.model_id)
    )
    embedded = per_model.join(Item, up_to_date(image_weight)).where(*ready)
    return _Counted(
        items=session.scalar(items) or 0,
        failed=session.scalar(items.where(Item.error.is_not(None))) or 0,
        vectors=dict(iter(session.execute(per_model))),
        embedded=dict(iter(session.execute(embedded))),
        embedded_though_failed=dict(iter(session.execute(embedded.where(Item.error.is_not(None))))),
    )


def use(session: Session, collection: Collection, name: str | None, settings: Settings) -> None:
    """Let searches of ``collection`` use this embedder first from now on; None follows the settings.

    Earlier searches keep what they used. Items that could not be embedded do not stand in the way.

    Raises:
        NotFound: the collection was deleted just now.
        InvalidInput: it is none of those in force.
        Conflict: it has not embedded every item yet.
    """
    chosen = named(name, settings) if name is not None else public_name(settings.embedder_name)
    lock_collection(session, collection.id, alone=True)
    session.refresh(collection)
    if chosen != embedder_of(collection, settings):
        (here,) = [one for one in coverage(session, collection, settings) if one.name == chosen and one.in_force]
        if here.missing:
            total = here.embedded + here.failed + here.missing
            raise Conflict(
                f"{here.missing:,} of {total:,} items have no vector of {chosen} yet: index the collection with it, "
                "then use it.",
                missing=here.missing,
            )
    collection.embedder = chosen if name is not None else None
    session.flush()


def remove_vectors(sessions: Sessions, collection_id: UUID, model_id: UUID, settings: Settings) -> int:
    """Remove what a model that is not in use has embedded in a collection; returns the number of vectors.

    Each batch is a transaction of its own, so that a large collection holds nobody up; what is interrupted can be asked
    for again.

    Raises:
        NotFound: no such collection or model (any more).
        Conflict: searches of the collection use the model.
    """

    def remove(session: Session) -> int:
        _require_unused(session, collection_id, model_id, settings)
        return _remove_some(session, collection_id, model_id)

    gone = 0
    while True:
        removed = run_transaction(sessions, remove)
        gone += removed
        if removed < _BATCH:
            return gone


def _require_unused(session: Session, collection_id: UUID, model_id: UUID, settings: Settings) -> None:
    # locked, so that the collection can't begin to use the model meanwhile
    collection = session.get(Collection, collection_id, with_for_update={"read": True})
    model = session.get(EmbeddingModel, model_id)
    if collection is None or model is None:
        raise NotFound("There is no such model in this collection.")
    used = current_model(session, embedder_of(collection, settings))
    if used is not None and used.id == model_id:
        raise Conflict(f"Searches of this collection use {model.name}: let them use another one first.")


def _remove_some(session: Session, collection_id: UUID, model_id: UUID) -> int:
    some = (
        sa.select(Embedding.item_id)
        .where(Embedding.collection_id == collection_id, Embedding.model_id == model_id)
        .order_by(Embedding.item_id)
        .limit(_BATCH)
        .with_for_update()
        .cte("some")  # evaluated once; of a subquery that is not certain
    )
    gone = sa.delete(Embedding).where(Embedding.model_id == model_id, Embedding.item_id.in_(sa.select(some.c.item_id)))
    return len(session.scalars(gone.returning(Embedding.item_id).execution_options(synchronize_session=False)).all())
