"""The trash: what is in it, restore it, delete it for good; shared by the API and the pages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from pydantic import BaseModel, Field
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session, aliased

from retllm.db.counts import CollectionCount
from retllm.db.deletion import WITH_DELETED
from retllm.db.enums import ItemKind
from retllm.db.session import run_transaction, transaction
from retllm.db.tables import Collection, Item, User, in_trash
from retllm.db.trash import is_trashed
from retllm.errors import Conflict
from retllm.identity.access import Right, collection_for, kept_collections
from retllm.identity.actor import Actor
from retllm.identity.audit import Action
from retllm.media import trash
from retllm.media.ingest import delete_files
from retllm_web.actions import catalog, chosen
from retllm_web.actions.auditing import record_collection
from retllm_web.actions.chosen import Batch, Conditions, Done, Result
from retllm_web.http.services import services

_NO_TRASH = "This collection is not in the trash."


class TrashedItem(BaseModel):
    """An item in the trash."""

    id: UUID
    name: str
    kind: ItemKind
    text: str | None
    has_picture: bool
    size_bytes: int
    trashed_at: datetime
    trashed_by: str | None = Field(description="whose request deleted it; null if the account was deleted")
    kept_until: datetime = Field(description="when it will be deleted for good")


_ITEM_COLUMNS = TrashedItem.model_fields.keys() - {"has_picture", "trashed_by"}


class TrashedCollection(BaseModel):
    """A collection in the trash."""

    id: UUID
    name: str
    owner: str
    items_total: int
    deleted_at: datetime
    deleted_by: str | None = Field(description="whose request deleted it; null if the account was deleted")
    kept_until: datetime = Field(description="when it will be deleted for good")


@dataclass(frozen=True)
class Trashed:
    """Items in the trash of a collection: those with these keys, or all of them.

    Of all, those count that come after ``after`` in the list, and if there are ``moments``, those that came into the
    trash at one of these.
    """

    collection_id: UUID
    keys: Sequence[UUID] | None = None
    moments: Sequence[datetime] = ()
    after: UUID | None = None


def _listed(collection_id: UUID, after: UUID | None, limit: int) -> sa.Select[UUID]:
    """Return the query of the items in the trash of a collection, from the one that came last."""
    query = sa.select(Item.id).where(in_trash(collection_id))
    if after is not None:
        # kept when an item leaves the trash, so that a list can go on after it
        one = aliased(Item)
        came = sa.select(one.trashed_at).where(one.id == after)
        query = query.where(
            sa.tuple_(Item.trashed_at, Item.id) < sa.tuple_(came.scalar_subquery(), sa.literal(after, sa.Uuid))
        )
    return query.order_by(Item.trashed_at.desc(), Item.id.desc()).limit(limit)


def page(
    session: Session, collection_id: UUID, *, after: UUID | None, limit: int
) -> tuple[list[TrashedItem], UUID | None]:
    """Return items in the trash of a collection, those that came last first, and the key to go on with."""
    query = _listed(collection_id, after, limit + 1).with_only_columns(Item, User.name)
    rows = session.execute(query.select_from(Item).outerjoin(User, User.id == Item.trashed_by)).all()
    items = [
        TrashedItem.model_validate(
            {name: getattr(item, name) for name in _ITEM_COLUMNS}
            | {"has_picture": item.thumbnail_key is not None, "trashed_by": by}
        )
        for item, by in rows[:limit]
    ]
    return items, items[-1].id if len(rows) > limit else None


def restore(actor: Actor, these: Trashed) -> Result:
    """Restore items, at most ``chosen.MAX``, except those whose content the collection has by now.

    Raises:
        NotFound, Forbidden: ``actor`` may not change the collection.
    """

    def restore_some(keys: Sequence[UUID], _: Conditions) -> Done:
        def write(session: Session) -> Done:
            collection = collection_for(session, actor, these.collection_id, Right.CHANGE)
            restored, skipped = trash.restore_items(session, these.collection_id, keys)
            chosen.record_items(session, actor, Action.ITEMS_RESTORED, collection, restored)
            return restored, skipped, {}

        return run_transaction(services().sessions, write)

    batches = chosen.named(these.keys, ()) if these.keys is not None else _all(actor, these)
    return chosen.in_batches(batches, restore_some, these.keys, after=these.after)


def remove(actor: Actor, collection_id: UUID, keys: Sequence[UUID]) -> Result:
    """Delete items in the trash for good.

    Raises:
        NotFound, Forbidden: ``actor`` may not change the collection.
    """
    found = services()

    def remove_some(keys: Sequence[UUID], conditions: Conditions) -> Done:
        def write(session: Session) -> tuple[list[UUID], list[str]]:
            collection = collection_for(session, actor, collection_id, Right.CHANGE)
            removed, files = trash.remove_items(session, keys, *conditions)
            chosen.record_items(session, actor, Action.ITEMS_REMOVED, collection, removed)
            return removed, files

        removed, files = run_transaction(found.sessions, write)
        # after the commit, so that no row names a file that is gone
        delete_files(found.storage, files)
        return removed, {}, {}

    inside = [in_trash(collection_id)]
    return chosen.in_batches(chosen.named(keys, inside), remove_some, keys)


def empty(actor: Actor, collection_id: UUID) -> None:
    """Delete all items in the trash of a collection for good: they can't be restored, and a dispatcher deletes them.

    Raises:
        NotFound, Forbidden: ``actor`` may not change the collection.
    """

    def write(session: Session) -> None:
        collection = collection_for(session, actor, collection_id, Right.CHANGE)
        trash.empty_trash(session, collection_id)
        record_collection(session, Action.TRASH_EMPTIED, collection)

    run_transaction(services().sessions, write)


def _all(actor: Actor, these: Trashed) -> Iterator[Batch]:
    after = these.after
    for _ in range(chosen.MAX // chosen.BATCH):
        query = _listed(these.collection_id, after, chosen.BATCH)
        if these.moments:
            query = query.where(Item.trashed_at.in_(these.moments))
        with transaction(services().sessions) as session:
            collection_for(session, actor, these.collection_id, Right.CHANGE)
            keys = session.scalars(query).all()
        after = keys[-1] if len(keys) == chosen.BATCH else None
        yield keys, (), after
        if after is None:
            return


def collections(
    session: Session, actor: Actor, *, after: UUID | None, limit: int
) -> tuple[list[TrashedCollection], UUID | None]:
    """Return the collections in the trash that ``actor`` may restore, newest first, and the key to go on with."""
    owner, by = aliased(User), aliased(User)
    query = (
        sa.select(Collection, owner.name, by.name)
        .select_from(Collection)
        .join(owner, owner.id == Collection.owner_id)
        .outerjoin(by, by.id == Collection.deleted_by)
        .where(kept_collections(actor))
        .order_by(Collection.id.desc())
        .limit(limit + 1)
    )
    if after is not None:
        query = query.where(Collection.id < after)
    rows = session.execute(query.execution_options(**WITH_DELETED)).all()
    counted = _counts(session, [collection.id for collection, *_ in rows])
    found = [
        TrashedCollection.model_validate(
            {name: getattr(collection, name) for name in ("id", "name", "deleted_at", "kept_until")}
            | {"owner": owner_name, "items_total": counted.get(collection.id, 0), "deleted_by": by_name}
        )
        for collection, owner_name, by_name in rows[:limit]
    ]
    return found, found[-1].id if len(rows) > limit else None


def _counts(session: Session, keys: Sequence[UUID]) -> dict[UUID, int]:
    one = CollectionCount
    query = sa.select(one.collection_id, sa.cast(sa.func.sum(one.count), sa.BigInteger))
    query = query.where(one.collection_id.in_(keys), one.model_id.is_(None)).group_by(one.collection_id)
    return dict(iter(session.execute(query.execution_options(**WITH_DELETED))))


def collections_with_items(session: Session, actor: Actor) -> list[Collection]:
    """Return those of the newest collections that ``actor`` may change in whose trash items are, by name."""
    mine = catalog.changeable(session, actor)
    keys = sa.literal([one.id for one in mine], ARRAY(sa.Uuid))
    emptied = sa.literal([one.trash_emptied_at for one in mine], ARRAY(sa.DateTime(timezone=True)))
    columns = sa.column("id", sa.Uuid), sa.column("emptied", sa.DateTime(timezone=True))
    these = sa.func.unnest(keys, emptied).table_valued(*columns).render_derived("these")
    # one look at the index for each of them
    came_later = sa.or_(these.c.emptied.is_(None), Item.trashed_at > these.c.emptied)
    inside = (Item.collection_id == these.c.id, is_trashed(Item), came_later)
    item = sa.select(Item.id).where(*inside).limit(1).correlate(these).lateral("item")
    found = set(session.scalars(sa.select(these.c.id).join_from(these, item, sa.true())))
    return [one for one in mine if one.id in found]


def restore_collection(actor: Actor, collection_id: UUID) -> tuple[str, str]:
    """Restore a collection with all that is in it; return the name that it had, and the one that it has now.

    Raises:
        NotFound, Forbidden: ``actor`` may not see it, or does not manage it.
        Conflict: it is not in the trash.
    """

    def write(session: Session) -> tuple[str, str]:
        collection = collection_for(session, actor, collection_id, Right.MANAGE, trashed=True)
        if collection.deleted_at is None:
            raise Conflict(_NO_TRASH)
        before = collection.name
        name = trash.restore_collection(session, collection_id)
        renamed: dict[str, Any] = {} if name == before else {"name": [before, name]}
        record_collection(session, Action.COLLECTION_RESTORED, collection, **renamed)
        return before, name

    return run_transaction(services().sessions, write)


def remove_collection(actor: Actor, collection_id: UUID) -> str:
    """Delete a collection in the trash for good; return its name. A dispatcher removes what is in it.

    Raises:
        NotFound, Forbidden: ``actor`` may not see it, or does not manage it.
        Conflict: it is not in the trash.
    """

    def write(session: Session) -> str:
        collection = collection_for(session, actor, collection_id, Right.MANAGE, trashed=True)
        if not trash.let_go(session, Collection.id == collection_id):
            raise Conflict(f"{_NO_TRASH} Delete it first.")
        record_collection(session, Action.COLLECTION_REMOVED, collection)
        return collection.name

    return run_transaction(services().sessions, write)
