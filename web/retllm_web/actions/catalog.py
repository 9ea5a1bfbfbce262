"""Collections as the API and the pages share them: make, list, change, count."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from retllm.db.enums import ItemKind, JobKind, Role, Stage
from retllm.db.locks import lock_collection
from retllm.db.operations import PausedQueue
from retllm.db.session import run_transaction
from retllm.db.tables import Collection, Embedding, Item, Job, Unit, User, new_id
from retllm.errors import Conflict, NotFound
from retllm.identity.access import Right, collection_for, require_role, visible_collections
from retllm.identity.actor import Actor
from retllm.identity.audit import Action
from retllm.indexing import coverage
from retllm.indexing.indexed import current_model, embedder_of, fresh_embedding, has_vector, is_ready
from retllm.media import ingest
from retllm.queue.notifications import QUEUE_OF
from retllm.settings import Settings
from retllm_web.actions.auditing import note
from retllm_web.http.services import services

RECENT_JOBS = 5
"""Index jobs of a collection that are looked at for one that is at work."""


@dataclass
class Facts:
    """What is counted of one collection: items by kind, and of them those indexed by the embedder in use.

    ``failed`` are not indexed since they could not be embedded the last time.
    """

    items: dict[ItemKind, int] = field(default_factory=lambda: dict.fromkeys(ItemKind, 0))
    indexed: int = 0
    failed: int = 0
    last_job: Job | None = None

    @property
    def total(self) -> int:
        """All items."""
        return sum(self.items.values())


def page(session: Session, actor: Actor, *, after: UUID | None, limit: int) -> list[Collection]:
    """Collections that ``actor`` may see, newest first; ``after`` is the last key of the page before."""
    wanted = sa.select(Collection).order_by(Collection.id.desc()).limit(limit)
    wanted = wanted.where(visible_collections(actor))
    if after is not None:
        wanted = wanted.where(Collection.id < after)
    return list(session.scalars(wanted))


def create(session: Session, actor: Actor, name: str, description: str = "") -> Collection:
    """A new collection of ``actor``.

    Raises:
        Conflict: they have one of that name.
        Forbidden: a viewer makes none.
    """
    require_role(actor, Role.ADMIN, Role.EDITOR)
    collection = Collection(id=new_id(), owner_id=actor.id, name=name.strip(), description=description)
    session.add(collection)
    _flush(session, collection.name)
    session.refresh(collection)
    _note(session, Action.COLLECTION_CREATED, collection)
    return collection


def change(session: Session, collection: Collection, *, name: str | None, description: str | None) -> None:
    """Give ``collection`` another name or description; None leaves it.

    Raises:
        NotFound: it was deleted just now.
        Conflict: its owner has another one of that name.
    """
    lock_collection(session, collection.id, alone=True)
    was = {"name": collection.name, "description": collection.description}
    if name is not None:
        collection.name = name.strip()
    if description is not None:
        collection.description = description
    _flush(session, collection.name)
    changed = {part: [before, now] for part, before in was.items() if before != (now := getattr(collection, part))}
    if changed:
        _note(session, Action.COLLECTION_CHANGED, collection, **changed)


def use_embedder(session: Session, collection: Collection, name: str | None, settings: Settings) -> None:
    """Let searches of ``collection`` use this embedder first; None follows the settings.

    Raises:
        InvalidInput: it is none of those in force.
        Conflict: it has not embedded every item yet.
    """
    before = collection.embedder
    coverage.use(session, collection, name, settings)
    if collection.embedder != before:
        _note(session, Action.COLLECTION_CHANGED, collection, embedder=[before, collection.embedder])


def delete(actor: Actor, collection_id: UUID) -> None:
    """Delete a collection: its items, files, jobs and results, with an entry in the audit log.

    Raises:
        NotFound, Forbidden: ``actor`` may not see it, or does not manage it.
    """

    def remove(session: Session) -> None:
        collection = collection_for(session, actor, collection_id, Right.MANAGE)
        lock_collection(session, collection_id, alone=True)
        items = sa.select(sa.func.count()).select_from(Item).where(Item.collection_id == collection_id, is_ready())
        _note(session, Action.COLLECTION_DELETED, collection, items=session.scalar(items))
        ingest.delete_collection(session, services().storage, collection_id)

    run_transaction(services().sessions, remove)


def _note(session: Session, action: Action, collection: Collection, **detail: Any) -> None:
    note(session, action, target=collection.name, target_id=collection.id, collection_id=collection.id, **detail)


def _flush(session: Session, name: str) -> None:
    try:
        session.flush()
    except sa.exc.IntegrityError as error:
        if "uq_collections" not in str(error.orig):
            raise
        raise Conflict(f"There is a collection named {name} already.") from error


def facts_of(session: Session, collections: Sequence[Collection], settings: Settings) -> dict[UUID, Facts]:
    """The counts of several collections, with a number of queries that depends on the embedders in use alone."""
    facts = {one.id: Facts() for one in collections}
    per_kind = (
        sa.select(Item.collection_id, Item.kind, sa.func.count())
        .where(Item.collection_id.in_(facts), is_ready())
        .group_by(Item.collection_id, Item.kind)
    )
    for collection_id, kind, count in session.execute(per_kind):
        facts[collection_id].items[kind] = count
    by_embedder: dict[str, list[UUID]] = defaultdict(list)
    for one in collections:
        by_embedder[embedder_of(one, settings)].append(one.id)
    for name, ids in by_embedder.items():
        _count_indexed(session, facts, ids, name, settings)
    for job in session.scalars(_newest_jobs(facts)):
        facts[job.collection_id].last_job = job
    return facts


def _newest_jobs(ids: Iterable[UUID]) -> sa.Select[Job]:
    """The newest job of each collection, each looked up by the index on its own."""
    of_one = sa.select(Job).where(Job.collection_id == Collection.id).order_by(Job.id.desc()).limit(1)
    newest = aliased(Job, of_one.correlate(Collection).lateral())
    return sa.select(newest).select_from(Collection).join(newest, sa.true()).where(Collection.id.in_(ids))


def _count_indexed(
    session: Session, facts: dict[UUID, Facts], ids: Sequence[UUID], embedder: str, settings: Settings
) -> None:
    """Count what is indexed and what failed in the collections that use this embedder."""
    model = current_model(session, embedder)
    ready = (Item.collection_id.in_(ids), is_ready())
    per_collection = sa.select(Item.collection_id, sa.func.count()).where(*ready).group_by(Item.collection_id)
    if model is not None:
        indexed = per_collection.join(Embedding, fresh_embedding(model.id, settings.item_image_weight))
        for collection_id, count in session.execute(indexed):
            facts[collection_id].indexed = count
    failed = per_collection.where(Item.error.is_not(None), ~has_vector(model, settings.item_image_weight))
    for collection_id, count in session.execute(failed):
        facts[collection_id].failed = count


def index_etag(session: Session, actor: Actor, collection_id: UUID) -> tuple[Any, ...]:
    """Values that change with what is told of a collection's index: its items, its index jobs, their units and pauses.

    Raises:
        NotFound: there is no such collection that ``actor`` may see.
    """
    items = sa.select(sa.func.count()).where(Item.collection_id == collection_id, is_ready()).scalar_subquery()
    recent = (
        sa.select(Job.id, Job.state, Job.cancel_requested)
        .where(Job.collection_id == collection_id, Job.kind == JobKind.INDEX)
        .order_by(Job.id.desc())
        .limit(RECENT_JOBS)
        .subquery()
    )
    jobs = sa.select(sa.func.string_agg(sa.func.concat_ws(" ", *recent.c), "; ")).scalar_subquery()
    units = (
        sa.select(
            sa.func.count(Unit.id),
            sa.func.sum(Unit.attempt),
            *(sa.func.max(column) for column in (Unit.started_at, Unit.finished_at, Unit.run_after)),
        )
        .join(recent, recent.c.id == Unit.job_id)
        .subquery()
    )
    paused = sa.select(PausedQueue.created_at).where(PausedQueue.queue == QUEUE_OF[Stage.EMBED]).scalar_subquery()
    query = sa.select(Collection.embedder, items, jobs, paused, *units.c).join(units, sa.true())
    row = session.execute(query.where(Collection.id == collection_id, visible_collections(actor))).first()
    if row is None:
        raise NotFound("There is no such collection.")
    return tuple(row)


def owners_of(session: Session, collections: Sequence[Collection]) -> dict[UUID, str]:
    """The owner's name of each collection."""
    ids = {collection.owner_id for collection in collections}
    names = dict(iter(session.execute(sa.select(User.id, User.name).where(User.id.in_(ids)))))
    return {collection.id: names[collection.owner_id] for collection in collections}
