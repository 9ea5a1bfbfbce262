"""Rows of items: insert without duplicates, find by content, set captions, delete."""

from __future__ import annotations

import uuid
from collections.abc import Collection as Several
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from retllm.db.duplicates import leave_groups
from retllm.db.enums import ItemKind, ItemState
from retllm.db.facts import NO_FACTS
from retllm.db.locks import lock_collections_of_items
from retllm.db.many import insert_many, one_of, update_many
from retllm.db.maps import leave_map
from retllm.db.ocr import NO_OCR
from retllm.db.tables import Collection, Embedding, Item, Source
from retllm.db.uploads import UploadFile
from retllm.errors import NotFound
from retllm.media import positions
from retllm.media.names import quoted

PICTURES = (ItemKind.IMAGE, ItemKind.BOTH)
"""The kinds of items that have a picture."""


@dataclass(frozen=True, slots=True)
class Known:
    """An existing item, with its name and the columns that concern its caption."""

    id: uuid.UUID
    name: str
    kind: ItemKind
    text: str | None
    version: int


_KNOWN = (Item.id, Item.name, Item.kind, Item.text, Item.version)


@dataclass(frozen=True, slots=True)
class Came:
    """When what gives a caption came.

    Attributes:
        file_id: the key of the received file, which grows with time.
        job_id: the upload that it came with first; the files of one have no order in time.
        is_again: whether that is an earlier upload than this one.
    """

    file_id: uuid.UUID
    job_id: uuid.UUID
    is_again: bool = False

    @property
    def rank(self) -> tuple[int, int]:
        """Its place among the files of one upload: first what is new, then what came last before."""
        return (1, -self.job_id.int) if self.is_again else NEW


NEW = (0, 0)
"""The rank of what is new in an upload."""


def rank_of(came: Came | None) -> tuple[int, int]:
    """Return the place of what came then among the files of one upload; what came at no known time is new."""
    return came.rank if came else NEW


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption, and when what gives it came; None for one that always counts."""

    text: str
    came: Came | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What became of a picture's caption: whether it changed, and why it did not if a later one stays."""

    changed: bool
    remark: str | None = None


def find_by_content(session: Session, collection_id: uuid.UUID, sha256: str) -> Known | None:
    """Return the ready item of the collection with this content."""
    return find_contents(session, collection_id, [sha256]).get(sha256)


def find_contents(session: Session, collection_id: uuid.UUID, sha256s: Sequence[str]) -> dict[str, Known]:
    """Return the ready items of the collection with these contents, by content."""
    if not sha256s:
        return {}
    rows = session.execute(
        sa.select(Item.content_sha256, *_KNOWN).where(
            Item.collection_id == collection_id, Item.content_sha256.in_(sha256s), Item.state == ItemState.READY
        )
    )
    return {row[0]: Known(*row[1:]) for row in rows}


def insert_item(session: Session, values: Mapping[str, Any]) -> bool:
    """Insert an item; return False if the collection has a ready one with this content, even if added concurrently."""
    return bool(insert_items(session, [values]))


def insert_items(session: Session, rows: Sequence[Mapping[str, Any]]) -> set[uuid.UUID]:
    """Insert items of one collection, except those whose content a ready item already has, even if added concurrently.

    All rows have the same fields. Return the keys of the inserted items. The caller has locked the collection; one that
    keeps no positions gets none.
    """
    located = [row for row in rows if row.get("latitude") is not None]
    if located and not positions.are_kept(session, located[0]["collection_id"]):
        rows = [{**row, **positions.NO_POSITION} for row in rows]
    # sorted by content, so that two uploads of the same contents can't deadlock
    values = [
        {"state": ItemState.READY, "version": 1, **row}
        for row in sorted(rows, key=lambda row: str(row["content_sha256"]))
    ]
    inserted = session.execute(
        insert_many(Item, values)
        .on_conflict_do_nothing(
            index_elements=[Item.collection_id, Item.content_sha256],
            index_where=sa.text("state = 'ready'"),
        )
        .returning(Item.id)
    )
    return set(inserted.scalars())


def name_source(session: Session, values: Mapping[str, Any]) -> uuid.UUID:
    """Insert a whole file and return its key, or that of the one with the same content that the collection has.

    It stays locked, so that it can't be deleted with its last item before the transaction has added its own.
    """
    inserted = insert(Source).values(**values)
    # an update that changes nothing locks the row that is there
    return session.scalars(
        inserted.on_conflict_do_update(
            index_elements=[Source.collection_id, Source.content_sha256],
            set_={"content_sha256": inserted.excluded.content_sha256},
        ).returning(Source.id)
    ).one()


def parts_of(session: Session, collection_id: uuid.UUID, sha256: str) -> set[str]:
    """Return the contents of the ready items that are parts of the file with this SHA-256."""
    query = sa.select(Item.content_sha256).join(Source, Source.id == Item.source_id)
    query = query.where(Source.collection_id == collection_id, Source.content_sha256 == sha256)
    return set(session.scalars(query.where(Item.state == ItemState.READY)))


def captioned(session: Session, item_ids: Iterable[uuid.UUID]) -> set[uuid.UUID]:
    """Return those of these items whose captions a file gave."""
    query = sa.select(Item.id).where(one_of(Item.id, list(item_ids)), Item.caption_file_id.is_not(None))
    return set(session.scalars(query))


def set_captions(session: Session, captions: Mapping[uuid.UUID, Caption]) -> dict[uuid.UUID, Change]:
    """Set the captions of pictures; return for each existing picture whether its caption changed.

    A changed item gets the kind ``BOTH`` and the next version, which makes embeddings of the old caption stale. An
    error of the last embedding is cleared. A caption stays that a file gave which came later, since an upload may end
    long after its files came, be tried again, or bring files that came before.
    """
    lock_collections_of_items(session, captions.keys())
    rows = session.execute(
        sa.select(Item.id, Item.text, Item.version, Item.caption_file_id, UploadFile.job_id, UploadFile.name)
        .outerjoin(UploadFile, UploadFile.id == Item.caption_file_id)
        .where(Item.id.in_(captions), Item.state == ItemState.READY, Item.kind.in_(PICTURES))
        .order_by(Item.id)
        # the key does not change, so rows that refer to the item can be written concurrently
        .with_for_update(key_share=True, of=Item)
    )
    changes: dict[uuid.UUID, Change] = {}
    changed: list[dict[str, Any]] = []
    confirmed: list[dict[str, Any]] = []
    for item_id, text, version, file_id, file_job_id, file_name in rows:
        caption = captions[item_id]
        came = caption.came
        is_older = bool(file_id and came and file_id > came.file_id and file_job_id != came.job_id)
        values = {"id": item_id, "caption_file_id": came.file_id if came else None}
        if text == caption.text:
            changes[item_id] = Change(False)
            if not is_older and file_id != values["caption_file_id"]:
                confirmed.append(values)
        elif is_older:
            changes[item_id] = Change(False, _stays(file_name))
        else:
            changes[item_id] = Change(True)
            new = {"text": caption.text, "kind": ItemKind.BOTH, "version": version + 1, "error": None}
            changed.append(values | new)
    for some in (changed, confirmed):
        if some:
            session.execute(update_many(Item, some).execution_options(synchronize_session=False))
    return changes


def _stays(file_name: str | None) -> str:
    file = f"{quoted(file_name)}, which was uploaded later," if file_name else "a file that was uploaded later"
    return f"Not used: {file} gave the caption. To use this one, change it or its name."


def empty_item(session: Session, item_id: uuid.UUID) -> list[str] | None:
    """Delete an item's content, see :func:`empty_items`; return None if it was deleted before."""
    items = lock_items(session, [item_id], to_remove=True)
    return empty_items(session, items) if items else None


def lock_items(
    session: Session,
    item_ids: Sequence[uuid.UUID],
    *conditions: sa.ColumnElement[bool],
    to_remove: bool = False,
    state: ItemState = ItemState.READY,
) -> Sequence[Item]:
    """Lock those of these items that have the state and meet the conditions, and their collections; return them by key.

    With ``to_remove`` the files that they are parts of are locked too, and rows that refer to the items can't be
    written meanwhile.
    """
    lock_collections_of_items(session, item_ids)
    chosen = one_of(Item.id, item_ids)
    if to_remove:
        wholes = sa.select(Source.id).where(Source.id.in_(sa.select(Item.source_id).where(chosen)))
        session.execute(wholes.order_by(Source.content_sha256, Source.id).with_for_update())
    query = sa.select(Item).where(chosen, Item.state == state, *conditions).order_by(Item.id)
    locking = query.with_for_update(key_share=not to_remove)
    return session.scalars(locking.execution_options(populate_existing=True)).all()


def empty_items(session: Session, items: Sequence[Item]) -> list[str]:
    """Delete the content of items from the database; return the storage keys of their files.

    They are locked by :func:`lock_items`, to be removed. A file whose last parts they were goes with them. The rows
    stay, with their names, so that old results can still show these. The caller commits.
    """
    keys = [key for item in items for key in (item.picture_key, item.thumbnail_key, item.copy_key) if key]
    source_ids = {item.source_id for item in items if item.source_id}
    for item in items:
        item.state = ItemState.DELETED
        item.text = item.picture_key = item.thumbnail_key = item.copy_key = item.source_id = item.error = None
        item.kept_until = item.perceptual_hash = item.original_root = item.original_path = None
        for name, value in {**NO_FACTS, **NO_OCR}.items():
            setattr(item, name, value)
        item.version += 1
    vectors = sa.delete(Embedding).where(one_of(Embedding.item_id, [item.id for item in items]))
    session.execute(vectors.execution_options(synchronize_session=False))
    session.flush()
    leave_groups(session, [item.id for item in items])
    leave_map(session, [item.id for item in items])
    return keys + remove_empty_sources(session, source_ids)


def remove_empty_sources(session: Session, source_ids: Several[uuid.UUID]) -> list[str]:
    """Delete those of these whole files that have no item; return their storage keys."""
    if not source_ids:
        return []
    has_item = sa.exists(Item.id).where(Item.source_id == Source.id)
    empty = sa.delete(Source).where(one_of(Source.id, source_ids), ~has_item).returning(Source.file_key)
    return list(session.scalars(empty.execution_options(synchronize_session=False)))


def delete_collection(
    session: Session, collection_id: uuid.UUID, *, days: float = 0, by: uuid.UUID | None = None
) -> None:
    """Delete a collection: from the commit on, it and all in it are gone for everyone (``db.deletion``).

    Waits for no worker: those that hold a unit of it find that they lost it. ``uploads.removal`` removes rows and
    files, after ``days`` for which it can be restored (``media.trash``).

    Raises:
        NotFound: the collection was already deleted.
    """
    until = sa.func.now() + timedelta(days=days) if days else None
    values = {"deleted_at": sa.func.now(), "deleted_by": by, "kept_until": until}
    marking = sa.update(Collection).where(Collection.id == collection_id).values(**values)
    marked = marking.returning(Collection.id).execution_options(synchronize_session=False)
    if session.scalar(marked) is None:
        raise NotFound(f"There is no collection with the id {collection_id}.")
