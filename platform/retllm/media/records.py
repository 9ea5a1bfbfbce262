"""The rows of items: made once each, found by content and by name, captioned, deleted."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from retllm.db.enums import ItemKind, ItemState
from retllm.db.locks import lock_collection, lock_collections_of_items
from retllm.db.tables import Collection, Embedding, Item, Job, Search

_PICTURES = (ItemKind.IMAGE, ItemKind.BOTH)


@dataclass(frozen=True, slots=True)
class Known:
    """An item that is there, as far as its caption goes."""

    id: uuid.UUID
    kind: ItemKind
    text: str | None
    version: int


_KNOWN = (Item.id, Item.kind, Item.text, Item.version)


def find_by_content(session: Session, collection_id: uuid.UUID, sha256: str) -> Known | None:
    """The ready item of the collection with this content."""
    return find_contents(session, collection_id, [sha256]).get(sha256)


def find_contents(session: Session, collection_id: uuid.UUID, sha256s: Sequence[str]) -> dict[str, Known]:
    """The ready items of the collection with these contents, by content."""
    if not sha256s:
        return {}
    rows = session.execute(
        sa.select(Item.content_sha256, *_KNOWN).where(
            Item.collection_id == collection_id, Item.content_sha256.in_(sha256s), Item.state == ItemState.READY
        )
    )
    return {row[0]: Known(*row[1:]) for row in rows}


def insert_item(session: Session, values: Mapping[str, Any]) -> bool:
    """Insert an item; False if the collection holds a ready one with this content, also one that came just now."""
    return bool(insert_items(session, [values]))


def insert_items(session: Session, rows: Sequence[Mapping[str, Any]]) -> set[uuid.UUID]:
    """Insert items of one collection; the keys of those whose content no ready one had, also none that came just now.

    All have the same fields.
    """
    made = session.execute(
        insert(Item)
        .on_conflict_do_nothing(
            index_elements=[Item.collection_id, Item.content_sha256],
            index_where=sa.text("state = 'ready'"),
        )
        .returning(Item.id),
        # always in the same order, so that two uploads of the same contents do not wait for each other in a ring
        [
            {"state": ItemState.READY, "version": 1, **row}
            for row in sorted(rows, key=lambda row: str(row["content_sha256"]))
        ],
    )
    return set(made.scalars())


def set_captions(session: Session, captions: Mapping[uuid.UUID, str]) -> dict[uuid.UUID, bool]:
    """Give pictures their captions; for each that is (still) there, whether anything changed.

    A changed one holds both parts and has the next version, by which embeddings of the old caption are seen as stale;
    why the old one could not be embedded is forgotten.
    """
    lock_collections_of_items(session, captions.keys())
    rows = session.execute(
        sa.select(*_KNOWN)
        .where(Item.id.in_(captions), Item.state == ItemState.READY, Item.kind.in_(_PICTURES))
        .order_by(Item.id)
        # leaves the key alone, so that what refers to an item can be written meanwhile
        .with_for_update(key_share=True)
    )
    known = [Known(*row) for row in rows]
    changed = [item for item in known if item.text != captions[item.id]]
    if changed:
        session.execute(
            sa.update(Item),
            [
                {
                    "id": item.id,
                    "text": captions[item.id],
                    "kind": ItemKind.BOTH,
                    "version": item.version + 1,
                    "error": None,
                }
                for item in changed
            ],
        )
    return {item.id: item in changed for item in known}


def pictures_named(session: Session, collection_id: uuid.UUID, names: Iterable[str]) -> dict[str, set[uuid.UUID]]:
    """The ready pictures of the collection that have one of these names."""
    return _by(session, collection_id, Item.name, names)


def pictures_with_base_name(
    session: Session, collection_id: uuid.UUID, names: Iterable[str]
) -> dict[str, set[uuid.UUID]]:
    """The ready pictures of the collection whose name ends in one of these, after its last slash."""
    return _by(session, collection_id, sa.func.substring(Item.name, "[^/]*$"), names)


def _by(session: Session, collection_id: uuid.UUID, column: Any, names: Iterable[str]) -> dict[str, set[uuid.UUID]]:
    wanted = sorted(set(names))
    found: dict[str, set[uuid.UUID]] = {}
    if not wanted:
        return found
    rows = session.execute(
        sa.select(column, Item.id).where(
            Item.collection_id == collection_id,
            Item.state == ItemState.READY,
            Item.kind.in_(_PICTURES),
            column.in_(wanted),
        )
    )
    for name, item_id in rows:
        found.setdefault(name, set()).add(item_id)
    return found


def empty_item(session: Session, item_id: uuid.UUID) -> list[str]:
    """Take an item's content out of the database; the keys of the files that it leaves behind.

    The row stays, with its name, so that old results can still name it. Nothing is committed here.
    """
    lock_collections_of_items(session, [item_id])
    item = session.get(Item, item_id, with_for_update=True, populate_existing=True)
    if item is None or item.state is ItemState.DELETED:
        return []
    keys = [key for key in (item.picture_key, item.thumbnail_key) if key]
    item.state = ItemState.DELETED
    item.text = item.picture_key = item.thumbnail_key = item.error = None
    item.version += 1
    session.execute(sa.delete(Embedding).where(Embedding.item_id == item_id))
    session.flush()
    return keys


def remove_collection(session: Session, collection_id: uuid.UUID) -> list[str]:
    """Delete a collection and all that hangs on it; the keys of the files that it leaves behind.

    Nothing is committed here. An upload that is under way then fails, for its collection is gone; so does what a worker
    has done of its jobs.

    Raises:
        NotFound: it is gone already.
    """
    # first the lock that waits for everyone at work in it and keeps others out, then the list of files: none is missed
    lock_collection(session, collection_id, alone=True)
    items = session.execute(
        sa.select(Item.picture_key, Item.thumbnail_key).where(
            Item.collection_id == collection_id, Item.picture_key.is_not(None)
        )
    )
    queries = session.execute(
        sa.select(Search.query_picture_key)
        .join(Job, Job.id == Search.id)
        .where(Job.collection_id == collection_id, Search.query_picture_key.is_not(None))
    )
    keys = [key for row in (*items, *queries) for key in row if key]
    session.execute(sa.delete(Collection).where(Collection.id == collection_id))
    return keys
