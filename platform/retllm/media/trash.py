"""The trash of items and of collections: put into it, restore, and delete for good (design: trash)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.deletion import WITH_DELETED
from retllm.db.duplicates import count_groups
from retllm.db.enums import ItemState
from retllm.db.locks import lock_collection
from retllm.db.many import one_of
from retllm.db.session import Sessions, run_transaction, transaction
from retllm.db.tables import Collection, Item, in_trash, is_kept
from retllm.db.trash import is_trashed
from retllm.errors import DatabaseBusy, NotFound
from retllm.media import records
from retllm.media.ingest import delete_files
from retllm.media.skipped import Skipped
from retllm.media.storage import Storage

BATCH = 200
"""Maximum number of items that one transaction deletes for good."""
_TRIES = 5
_CONTENT_IS_THERE = "uq_items_collection_content"
_NAME_IS_TAKEN = "uq_collections_owner_id_name"


def trash_items(session: Session, items: Sequence[Item], *, days: float, by: UUID | None) -> datetime:
    """Put items, which are locked, into the trash for so many days; return when they came there.

    They keep their content, their files, their vectors and their places in groups of near-duplicates.
    """
    # after their collections were locked: whoever empties the trash waits for that
    moment: datetime = session.scalars(sa.select(sa.func.clock_timestamp())).one()
    values = {"trashed_at": moment, "trashed_by": by, "kept_until": moment + timedelta(days=days)}
    update = sa.update(Item).where(one_of(Item.id, [item.id for item in items]))
    # one statement, since the counts are written for each; the items of the session follow it
    update = update.values(state=ItemState.TRASHED, **values)
    session.execute(update.execution_options(synchronize_session="fetch"))
    count_groups(session, [item.id for item in items])
    return moment


def restore_items(
    session: Session, collection_id: UUID, item_ids: Sequence[UUID], *conditions: sa.ColumnElement[bool]
) -> tuple[list[UUID], dict[UUID, Skipped]]:
    """Restore those of these items that are in the trash of the collection; return them, and why not others.

    An item whose content the collection has by now stays in the trash.

    Raises:
        DatabaseBusy: the same contents are added repeatedly by other requests.
    """
    inside = (in_trash(collection_id), *conditions)
    for _ in range(_TRIES):
        items = records.lock_items(session, item_ids, *inside, state=ItemState.TRASHED)
        there = {*records.find_contents(session, collection_id, [item.content_sha256 for item in items])}
        restored: list[UUID] = []
        for item in items:
            if item.content_sha256 not in there:
                there.add(item.content_sha256)
                restored.append(item.id)
        update = sa.update(Item).where(one_of(Item.id, restored)).values(state=ItemState.READY, kept_until=None)
        try:
            with session.begin_nested():
                session.execute(update.execution_options(synchronize_session=False))
        except sa.exc.IntegrityError as error:
            if _CONTENT_IS_THERE not in str(error.orig):
                raise
            # added just now by an upload
            continue
        count_groups(session, restored)
        return restored, {item.id: Skipped.DUPLICATE for item in items if item.id not in restored}
    raise DatabaseBusy(retry_after=1)


def remove_items(
    session: Session, item_ids: Sequence[UUID], *conditions: sa.ColumnElement[bool]
) -> tuple[list[UUID], list[str]]:
    """Delete those of these items for good that are in the trash; return them, and the keys of their files.

    The caller deletes the files after the commit.
    """
    items = records.lock_items(session, item_ids, *conditions, to_remove=True, state=ItemState.TRASHED)
    removed = [item.id for item in items]
    return removed, records.empty_items(session, items)


def empty_trash(session: Session, collection_id: UUID) -> None:
    """Empty the trash of a collection: from the commit on, nothing that is in it now can be restored.

    Takes as long for many items as for few; :func:`remove_due` deletes them.

    Raises:
        NotFound: the collection was deleted.
    """
    # waits for those that put items into the trash, so that it has what came before and nothing that comes later
    lock_collection(session, collection_id, alone=True)
    emptied = sa.update(Collection).where(Collection.id == collection_id)
    emptied = emptied.values(trash_emptied_at=sa.func.clock_timestamp())
    session.execute(emptied.execution_options(synchronize_session=False))


def remove_due(sessions: Sessions, storage: Storage) -> int:
    """Delete the items for good whose time in the trash is over, and those of emptied ones; return their number.

    Each transaction deletes at most ``BATCH`` items. Items of deleted collections go with these.
    """
    over = Item.kept_until <= sa.func.now()
    emptied = (is_trashed(Item), Item.collection_id == Collection.id, Item.trashed_at <= Collection.trash_emptied_at)
    first = sa.select(Item.id).where(over).order_by(Item.kept_until).limit(BATCH)
    with_mark = sa.select(Collection.id).where(Collection.trash_emptied_at.is_not(None)).limit(BATCH)
    removed = _remove_all(sessions, storage, first, over)
    with transaction(sessions) as session:
        collections = session.scalars(with_mark).all()
    for collection_id in collections:
        inside = (Item.collection_id == collection_id, is_trashed(Item), ~in_trash(collection_id))
        oldest = sa.select(Item.id).where(*inside).order_by(Item.trashed_at).limit(BATCH)
        removed += _remove_all(sessions, storage, oldest, *inside)
    if collections:
        left = sa.exists(Item.id).where(*emptied).correlate(Collection)
        empty = sa.update(Collection).where(one_of(Collection.id, collections), ~left).values(trash_emptied_at=None)
        run_transaction(sessions, lambda session: session.execute(empty.execution_options(synchronize_session=False)))
    return removed


def _remove_all(sessions: Sessions, storage: Storage, due: sa.Select[UUID], *conditions: sa.ColumnElement[bool]) -> int:
    removed = 0
    while True:
        with transaction(sessions) as session:
            keys = session.scalars(due).all()

        def remove(session: Session, keys: Sequence[UUID] = keys) -> tuple[list[UUID], list[str]]:
            return remove_items(session, keys, *conditions)

        gone, files = run_transaction(sessions, remove) if keys else ([], [])
        # after the commit, so that no row names a file that is gone
        delete_files(storage, files)
        removed += len(gone)
        if not gone:
            return removed


def restore_collection(session: Session, collection_id: UUID) -> str:
    """Restore a collection with all that is in it; return its name, which is another one if its own was taken.

    Raises:
        NotFound: it is not in the trash.
        DatabaseBusy: its names are taken repeatedly by other requests.
    """
    found = sa.select(Collection).where(Collection.id == collection_id, is_kept())
    collection = session.scalar(found.with_for_update(key_share=True).execution_options(**WITH_DELETED))
    if collection is None:
        raise NotFound(f"There is no collection with the id {collection_id}.")
    for _ in range(_TRIES):
        name = _free_name(session, collection.owner_id, collection.name)
        try:
            with session.begin_nested():
                values = {"name": name, "deleted_at": None, "deleted_by": None, "kept_until": None}
                restored = sa.update(Collection).where(Collection.id == collection_id).values(**values)
                session.execute(restored.execution_options(synchronize_session=False, **WITH_DELETED))
        except sa.exc.IntegrityError as error:
            if _NAME_IS_TAKEN not in str(error.orig):
                raise
            continue
        session.expire(collection)
        return name
    raise DatabaseBusy(retry_after=1)


def _free_name(session: Session, owner_id: UUID, name: str) -> str:
    alike = sa.or_(Collection.name == name, Collection.name.startswith(f"{name} (restored", autoescape=True))
    taken = set(session.scalars(sa.select(Collection.name).where(Collection.owner_id == owner_id, alike)))
    number, free = 1, name
    while free in taken:
        free = f"{name} (restored)" if number == 1 else f"{name} (restored {number})"
        number += 1
    return free


def let_go(session: Session, condition: sa.ColumnElement[bool]) -> int:
    """Let collections in the trash be removed (``uploads.removal``), which can't be restored any more.

    Returns their number.
    """
    kept = (Collection.deleted_at.is_not(None), Collection.kept_until.is_not(None))
    going = sa.update(Collection).where(*kept, condition).values(kept_until=None, deleted_at=sa.func.now())
    options = {"synchronize_session": False, **WITH_DELETED}
    return len(session.scalars(going.returning(Collection.id).execution_options(**options)).all())
