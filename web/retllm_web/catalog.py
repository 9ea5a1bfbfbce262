"""Collections as the API and the pages share them: make, list, change, count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.orm import Session

from retllm.access import demand_role, visible_collections
from retllm.db.enums import ItemKind, ItemState, Role
from retllm.db.tables import Collection, Embedding, Item, Job, User, new_id
from retllm.errors import Conflict
from retllm.jobs.indexed import current_model, fresh_embedding
from retllm.settings import Settings


@dataclass
class Facts:
    """What is counted of one collection."""

    items: dict[ItemKind, int] = field(default_factory=lambda: dict.fromkeys(ItemKind, 0))
    indexed: int = 0
    last_job: Job | None = None


def page(session: Session, user: User, *, after: UUID | None, limit: int) -> list[Collection]:
    """Collections that ``user`` may see, newest first; ``after`` is the last key of the page before."""
    wanted = sa.select(Collection).order_by(Collection.id.desc()).limit(limit)
    wanted = wanted.where(visible_collections(user))
    if after is not None:
        wanted = wanted.where(Collection.id < after)
    return list(session.scalars(wanted))


def create(session: Session, user: User, name: str, description: str = "") -> Collection:
    """A new collection of ``user``.

    Raises:
        Conflict: they have one of that name.
        Forbidden: a viewer makes none.
    """
    demand_role(user, Role.ADMIN, Role.EDITOR)
    collection = Collection(id=new_id(), owner_id=user.id, name=name.strip(), description=description)
    session.add(collection)
    _flush(session, collection.name)
    session.refresh(collection)
    return collection


def change(session: Session, collection: Collection, *, name: str | None, description: str | None) -> None:
    """Give ``collection`` another name or description; None leaves it.

    Raises:
        Conflict: its owner has another one of that name.
    """
    if name is not None:
        collection.name = name.strip()
    if description is not None:
        collection.description = description
    _flush(session, collection.name)


def _flush(session: Session, name: str) -> None:
    try:
        session.flush()
    except sa.exc.IntegrityError as error:
        if "uq_collections" not in str(error.orig):
            raise
        raise Conflict(f"There is a collection named {name} already.") from error


def facts_of(session: Session, ids: Sequence[UUID], settings: Settings) -> dict[UUID, Facts]:
    """The counts of several collections, with a fixed number of queries."""
    facts = {one: Facts() for one in ids}
    ready = sa.and_(Item.collection_id.in_(ids), Item.state == ItemState.READY)
    per_kind = (
        sa.select(Item.collection_id, Item.kind, sa.func.count()).where(ready).group_by(Item.collection_id, Item.kind)
    )
    for collection_id, kind, count in session.execute(per_kind):
        facts[collection_id].items[kind] = count
    model = current_model(session, settings.embedder_name)
    if model is not None:
        indexed = (
            sa.select(Item.collection_id, sa.func.count())
            .join(Embedding, fresh_embedding(model.id, settings.item_image_weight))
            .where(ready)
            .group_by(Item.collection_id)
        )
        for collection_id, count in session.execute(indexed):
            facts[collection_id].indexed = count
    newest = (
        sa.select(Job)
        .where(Job.collection_id.in_(ids))
        .ext(distinct_on(Job.collection_id))
        .order_by(Job.collection_id, Job.id.desc())
    )
    for job in session.scalars(newest):
        facts[job.collection_id].last_job = job
    return facts


def owners_of(session: Session, collections: Sequence[Collection]) -> dict[UUID, str]:
    """The owner's name of each collection."""
    ids = {collection.owner_id for collection in collections}
    names = dict(iter(session.execute(sa.select(User.id, User.name).where(User.id.in_(ids)))))
    return {collection.id: names[collection.owner_id] for collection in collections}
