"""Rows of items: insert without duplicates, find by content or name, set captions, delete."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, aggregate_order_by, insert
from sqlalchemy.orm import Session, aliased

from retllm.db.enums import FileStatus, ItemKind, ItemState
from retllm.db.locks import lock_collections_of_items
from retllm.db.many import insert_many, one_of, update_many
from retllm.db.tables import Collection, Embedding, Item, Job, Source
from retllm.db.uploads import UploadFile
from retllm.errors import NotFound
from retllm.media.names import quoted
from retllm.media.sniffing import FileKind

_PICTURES = (ItemKind.IMAGE, ItemKind.BOTH)
# made once: an alias copies all columns
_PARENT, _OUTERMOST = aliased(UploadFile), aliased(UploadFile)


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

    All rows have the same fields. Return the keys of the inserted items.
    """
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


def wholes_with_stems(
    session: Session, collection_id: uuid.UUID, stems: Iterable[str]
) -> list[tuple[str, str, str | None, tuple[uuid.UUID, ...]]]:
    """Return the files of several pictures whose last part is one of ``stems``, with or without its suffix.

    Names in lower case are compared too. A file also has the names under which it was uploaded again.

    Returns:
        The name of each, that of the archive that it came in, empty if none is known, the end of the raw name, and the
        items of its parts in their order.
    """
    inside = Source.collection_id == collection_id
    again = (
        sa.select(Source.id, UploadFile.name, UploadFile.id)
        .join(Job, Job.id == UploadFile.job_id)
        .join(Source, sa.and_(Source.content_sha256 == UploadFile.sha256, Source.collection_id == Job.collection_id))
        .where(inside, UploadFile.status == FileStatus.READ, UploadFile.name != Source.name)
    )
    # a whole file has the key of the uploaded one
    own = sa.select(Source.id, Source.name, Source.id.label("file_id")).where(inside)
    named = own.union_all(again).subquery()
    base = sa.func.substring(named.c.name, "[^/]*$")
    stem = sa.func.substring(base, "^(.*)[.][^.]*$")
    place = sa.func.coalesce(Item.part["page"].as_float(), Item.part["seconds"].as_float())
    query = (
        sa.select(
            named.c.name,
            sa.func.coalesce(_PARENT.name, ""),
            UploadFile.raw_end,
            sa.func.array_agg(aggregate_order_by(Item.id, place)),
        )
        .join(Item, Item.source_id == named.c.id)
        .outerjoin(UploadFile, UploadFile.id == named.c.file_id)
        .outerjoin(_PARENT, _PARENT.id == UploadFile.parent_id)
        .where(Item.state == ItemState.READY)
        .where(_in_any_case((base, stem), stems))
        .group_by(named.c.id, named.c.name, named.c.file_id, _PARENT.name, UploadFile.raw_end)
        .order_by(named.c.id, named.c.file_id)
    )
    return [(name, outer, end, tuple(ids)) for name, outer, end, ids in session.execute(query)]


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
        .where(Item.id.in_(captions), Item.state == ItemState.READY, Item.kind.in_(_PICTURES))
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


def pictures_with_stems(
    session: Session, collection_id: uuid.UUID, stems: Iterable[str], keys: Iterable[str] = ()
) -> list[tuple[str, uuid.UUID, str, str | None]]:
    """Return the ready pictures whose last part is one of ``stems``, with or without its suffix.

    Names in lower case are compared too. Those are found too whose last part up to its first dot is one of ``keys``. A
    picture also has the names under which it was uploaded again, if no other has these.

    Returns:
        A name of each, its key, the name of the archive that it came in, empty if none is known, and the end of the raw
        name (:attr:`retllm.db.uploads.UploadFile.raw_end`).
    """
    ready = (Item.collection_id == collection_id, Item.state == ItemState.READY, Item.kind.in_(_PICTURES))
    duplicates = (
        sa.select(UploadFile.name, Item.id, UploadFile.id)
        .join(Job, Job.id == UploadFile.job_id)
        .join(Item, Item.id == UploadFile.item_id)
        .where(Job.collection_id == collection_id, *ready)
        .where(UploadFile.status == FileStatus.DUPLICATE, UploadFile.content == FileKind.PICTURE)
    )
    # an item has the key of its file
    named = sa.select(Item.name, Item.id, Item.id.label("file_id")).where(*ready).union_all(duplicates).subquery()
    # each name is cut once
    pictures = sa.select(named, sa.func.substring(named.c.name, "[^/]*$").label("base")).offset(0).subquery()
    stem = sa.func.substring(pictures.c.base, "^(.*)[.][^.]*$")
    fitting = _in_any_case((pictures.c.base, stem), stems)
    if keys:
        fitting = sa.or_(fitting, sa.func.substring(pictures.c.base, "^.[^.]*").in_(_listed(keys)))
    archive = sa.func.coalesce(_OUTERMOST.name, sa.case((_PARENT.content == FileKind.ARCHIVE, _PARENT.name)), "")
    found = (
        sa.select(pictures.c.name, pictures.c.id, archive, UploadFile.raw_end, pictures.c.id == pictures.c.file_id)
        .distinct()
        .outerjoin(UploadFile, UploadFile.id == pictures.c.file_id)
        .outerjoin(_PARENT, _PARENT.id == UploadFile.parent_id)
        # of a page, whose parent is the whole file
        .outerjoin(_OUTERMOST, _OUTERMOST.id == _PARENT.parent_id)
        .where(fitting)
        .order_by(pictures.c.name, pictures.c.id)
    )
    rows = session.execute(found).all()
    own = {(name, outer) for name, _, outer, _, is_own in rows if is_own}
    return [(name, key, outer, end) for name, key, outer, end, is_own in rows if is_own or (name, outer) not in own]


def rejected_with_stems(
    session: Session, collection_id: uuid.UUID, stems: Iterable[str]
) -> list[tuple[str, str, str | None]]:
    """Return the rejected files whose last part is one of ``stems``, with or without its suffix, in lower case too.

    Returns:
        The name of each, that of the archive that it came in, empty if it came in none, and why it was rejected.
    """
    base = sa.func.substring(UploadFile.name, "[^/]*$")
    query = (
        sa.select(UploadFile.name, sa.func.coalesce(_PARENT.name, ""), UploadFile.error)
        .join(Job, Job.id == UploadFile.job_id)
        .outerjoin(_PARENT, _PARENT.id == UploadFile.parent_id)
        .where(Job.collection_id == collection_id, UploadFile.status == FileStatus.REJECTED)
        # neither a row of a sheet nor a part of a file
        .where(sa.or_(UploadFile.parent_id.is_(None), UploadFile.entry.is_not(None)))
        .where(_in_any_case((base, sa.func.substring(base, "^(.*)[.][^.]*$")), stems))
        .order_by(UploadFile.id)
    )
    return [(name, outer, error) for name, outer, error in session.execute(query)]


def _in_any_case(names: Iterable[sa.ColumnElement[str]], texts: Iterable[str]) -> sa.ColumnElement[bool]:
    """Return whether one of the names is among the texts, as it is or in lower case."""
    listed = _listed(texts)
    return sa.or_(*(part.in_(listed) for name in names for part in (name, sa.func.lower(name))))


def _listed(texts: Iterable[str]) -> sa.Select[str]:
    # many texts, sent once however often they are compared with
    listed = sa.select(sa.func.unnest(sa.cast(sorted(set(texts)), ARRAY(sa.Text))).label("text")).cte()
    return sa.select(listed.c.text)


def empty_item(session: Session, item_id: uuid.UUID) -> list[str] | None:
    """Delete an item's content from the database; return the storage keys of its files, None if it was deleted before.

    The file that it was the last part of goes with it. The row stays, with its name, so that old results can still show
    the name. The caller commits.
    """
    lock_collections_of_items(session, [item_id])
    whole = sa.select(Source).where(Source.id == sa.select(Item.source_id).where(Item.id == item_id).scalar_subquery())
    source = session.scalar(whole.with_for_update())
    item = session.get(Item, item_id, with_for_update=True, populate_existing=True)
    if item is None or item.state is ItemState.DELETED:
        return None
    keys = [key for key in (item.picture_key, item.thumbnail_key, item.copy_key) if key]
    item.state = ItemState.DELETED
    item.text = item.picture_key = item.thumbnail_key = item.copy_key = item.source_id = item.error = None
    item.version += 1
    session.execute(sa.delete(Embedding).where(Embedding.item_id == item_id))
    session.flush()
    if source is not None and session.scalar(sa.select(Item.id).where(Item.source_id == source.id).limit(1)) is None:
        keys.append(source.file_key)
        session.delete(source)
        session.flush()
    return keys


def delete_collection(session: Session, collection_id: uuid.UUID) -> None:
    """Delete a collection: from the commit on, it and all in it are gone for everyone (``db.deletion``).

    Takes as long for a large one as for a small one. Waits for no worker: those that hold a unit of it find that they
    lost it. ``uploads.removal`` removes rows and files.

    Raises:
        NotFound: the collection was already deleted.
    """
    marking = sa.update(Collection).where(Collection.id == collection_id).values(deleted_at=sa.func.now())
    marked = marking.returning(Collection.id).execution_options(synchronize_session=False)
    if session.scalar(marked) is None:
        raise NotFound(f"There is no collection with the id {collection_id}.")
