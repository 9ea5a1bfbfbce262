"""Collections: create, list, change, delete, count; shared by the API and the pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from retllm.db.counts import CollectionCount, UnitCount
from retllm.db.enums import GOING_ON, ItemKind, JobKind, Role, Stage, UnitState
from retllm.db.jobs import Job
from retllm.db.locks import lock_collection
from retllm.db.operations import PausedQueue
from retllm.db.session import run_transaction
from retllm.db.tables import DEFAULT_LANGUAGE, Collection, EmbeddingModel, User, new_id
from retllm.errors import Conflict, NotFound
from retllm.identity.access import (
    Right,
    changeable_collections,
    collection_for,
    require_role,
    visible_collections,
)
from retllm.identity.actor import Actor
from retllm.identity.audit import Action
from retllm.indexing import coverage
from retllm.indexing.counts import Counts, counts_of, items_in
from retllm.indexing.indexed import current_model, embedder_of
from retllm.media import records
from retllm.queue.routing import QUEUE_OF
from retllm.search.languages import change_language, require_known
from retllm.settings import Settings
from retllm_web.actions.auditing import record_collection
from retllm_web.http.services import services

RECENT_JOBS = 5
"""Newest index jobs of a collection among which to look for one that is not over."""


@dataclass
class CollectionCounts:
    """The counts of one collection: items by kind, and how many of them the primary embedder has indexed.

    ``failed`` counts the items that are not indexed because their last embedding failed.
    """

    items: dict[ItemKind, int] = field(default_factory=lambda: dict.fromkeys(ItemKind, 0))
    indexed: int = 0
    failed: int = 0
    last_job: Job | None = None

    @property
    def total(self) -> int:
        """Return the number of all items."""
        return sum(self.items.values())


def page(session: Session, actor: Actor, *, after: UUID | None, limit: int) -> list[Collection]:
    """Return collections that ``actor`` may see, newest first; ``after`` is the last key of the previous page."""
    query = sa.select(Collection).order_by(Collection.id.desc()).limit(limit)
    query = query.where(visible_collections(actor))
    if after is not None:
        query = query.where(Collection.id < after)
    return list(session.scalars(query))


def changeable(session: Session, actor: Actor, limit: int = 200) -> list[Collection]:
    """Return the newest collections that ``actor`` may change, by name."""
    query = sa.select(Collection).where(changeable_collections(actor)).order_by(Collection.id.desc()).limit(limit)
    return sorted(session.scalars(query), key=lambda collection: collection.name.lower())


def create(
    session: Session, actor: Actor, name: str, description: str = "", language: str = DEFAULT_LANGUAGE
) -> Collection:
    """Create a collection of ``actor``.

    Raises:
        Conflict: the database server does not know the language.
        Conflict: they already have one of that name.
        Forbidden: they are a viewer.
    """
    require_role(actor, Role.ADMIN, Role.EDITOR)
    require_known(session, language)
    collection = Collection(
        id=new_id(), owner_id=actor.id, name=name.strip(), description=description, language=language
    )
    session.add(collection)
    _flush(session, collection.name)
    session.refresh(collection)
    record_collection(session, Action.COLLECTION_CREATED, collection)
    return collection


def change(
    session: Session, collection: Collection, *, name: str | None, description: str | None, language: str | None = None
) -> None:
    """Change the name, description or language of ``collection``; None leaves it unchanged.

    Raises:
        NotFound: it was deleted meanwhile.
        Conflict: its owner has another one of that name, or the database server does not know the language.
    """
    lock_collection(session, collection.id, alone=True)
    before = {"name": collection.name, "description": collection.description, "language": collection.language}
    if name is not None:
        collection.name = name.strip()
    if description is not None:
        collection.description = description
    _flush(session, collection.name)
    if language is not None:
        change_language(session, collection, language)
    changed: dict[str, Any] = {
        part: [old, new] for part, old in before.items() if old != (new := getattr(collection, part))
    }
    if changed:
        record_collection(session, Action.COLLECTION_CHANGED, collection, **changed)


def use_embedder(session: Session, collection: Collection, name: str | None, settings: Settings) -> None:
    """Make ``name`` the primary embedder for searches of ``collection``; None follows the settings.

    Raises:
        InvalidInput: it is not one of the configured embedders.
        Conflict: it has not embedded every item yet.
    """
    before = collection.embedder
    coverage.use(session, collection, name, settings)
    if collection.embedder != before:
        record_collection(session, Action.COLLECTION_CHANGED, collection, embedder=[before, collection.embedder])


def delete(actor: Actor, collection_id: UUID) -> None:
    """Put a collection into the trash with its items, files, jobs and results, and record it in the audit log.

    They are gone at once; rows and files are removed later (``uploads.removal``), after the time in the trash.

    Raises:
        NotFound, Forbidden: ``actor`` may not see it, or does not manage it.
    """

    def remove(session: Session) -> None:
        collection = collection_for(session, actor, collection_id, Right.MANAGE)
        items = session.scalar(items_in(CollectionCount.collection_id == collection_id))
        record_collection(session, Action.COLLECTION_DELETED, collection, items=items)
        records.delete_collection(session, collection_id, days=services().settings.trash_days, by=actor.id)

    run_transaction(services().sessions, remove)


def _flush(session: Session, name: str) -> None:
    try:
        session.flush()
    except sa.exc.IntegrityError as error:
        if "uq_collections" not in str(error.orig):
            raise
        raise Conflict(f"A collection named {name} already exists.") from error


def count_items(
    session: Session, collections: Sequence[Collection], settings: Settings
) -> dict[UUID, CollectionCounts]:
    """Return the counts of several collections; the number of queries depends only on the embedders in use."""
    found = counts_of(session, [collection.id for collection in collections], settings.item_image_weight)
    names = {collection.id: embedder_of(collection, settings) for collection in collections}
    models = {name: current_model(session, name) for name in set(names.values())}
    counts = {key: _counts(one, models[names[key]]) for key, one in found.items()}
    for job in session.scalars(_current_jobs().where(Collection.id.in_(counts))):
        counts[job.one_collection].last_job = job
    return counts


def _counts(found: Counts, model: EmbeddingModel | None) -> CollectionCounts:
    return CollectionCounts(
        items={kind: found.kinds[kind] for kind in ItemKind},
        indexed=found.embedded[model.id] if model is not None else 0,
        failed=found.failed_without(model.id if model is not None else None),
    )


@cache
def _current_jobs() -> sa.Select[Job]:
    """Return a query for a job of each collection: one that runs, else one that is queued, else the newest.

    Each is an index lookup, however many jobs wait.
    """

    def newest(*where: sa.ColumnElement[bool]) -> sa.ScalarSelect[UUID]:
        query = sa.select(Job.id).where(Job.collection_id == Collection.id, *where).order_by(Job.id.desc()).limit(1)
        return query.correlate(Collection).scalar_subquery()

    chosen = sa.func.coalesce(*(newest(Job.state == state) for state in GOING_ON), newest())
    # the limit keeps the planner from joining all jobs
    found = sa.select(Job).where(Job.id == chosen).limit(1)
    current = aliased(Job, found.correlate(Collection).lateral())
    return sa.select(current).select_from(Collection).join(current, sa.true())


def index_etag(session: Session, actor: Actor, collection_id: UUID) -> tuple[Any, ...]:
    """Return values that change whenever the shown index state does: items, index jobs, their units, the queue's pause.

    Raises:
        NotFound: there is no such collection that ``actor`` may see.
    """
    items = items_in(CollectionCount.collection_id == collection_id).scalar_subquery()
    recent = (
        sa.select(Job.id, Job.state, Job.cancel_requested)
        .where(Job.collection_id == collection_id, Job.kind.in_([JobKind.UPLOAD, JobKind.INDEX]))
        .order_by(Job.id.desc())
        .limit(RECENT_JOBS)
        .subquery()
    )
    jobs = sa.select(sa.func.string_agg(sa.func.concat_ws(" ", *recent.c), "; ")).scalar_subquery()
    units = (
        sa.select(
            *(
                sa.func.sum(column).filter(UnitCount.state == state).label(f"{column.key}_{state}")
                for state in UnitState
                for column in (UnitCount.units, UnitCount.changes)
            )
        )
        .join(recent, recent.c.id == UnitCount.job_id)
        .subquery()
    )
    paused = sa.select(PausedQueue.created_at).where(PausedQueue.queue == QUEUE_OF[Stage.EMBED]).scalar_subquery()
    query = sa.select(Collection.embedder, items, jobs, paused, *units.c).join(units, sa.true())
    row = session.execute(query.where(Collection.id == collection_id, visible_collections(actor))).first()
    if row is None:
        raise NotFound("There is no such collection.")
    return tuple(row)


def owners_of(session: Session, collections: Sequence[Collection]) -> dict[UUID, str]:
    """Return the name of each collection's owner."""
    ids = {collection.owner_id for collection in collections}
    names = dict(iter(session.execute(sa.select(User.id, User.name).where(User.id.in_(ids)))))
    return {collection.id: names[collection.owner_id] for collection in collections}
