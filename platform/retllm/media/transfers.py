"""Move and copy items into another collection, each completely or not at all (design: media).

In the other collection an item has a key of its own, so that results of earlier searches keep their item: one that was
moved stays as a deleted one, with its name. It has files of its own too, which cost nothing where the storage can link
them. Its vectors are those of the item, which no model has to make again.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from retllm.db.facts import NO_FACTS
from retllm.db.locks import lock_collections
from retllm.db.many import one_of
from retllm.db.ocr import NO_OCR
from retllm.db.session import Sessions, transaction
from retllm.db.tables import Collection, Embedding, Item, Source, new_id
from retllm.errors import NotFound
from retllm.media import records
from retllm.media.ingest import delete_files, item_folder
from retllm.media.references import suffix_like
from retllm.media.skipped import Skipped
from retllm.media.sources import source_key
from retllm.media.storage import Storage

_PLACE = ("original_root", "original_path")
_FILES = ("picture_key", "thumbnail_key", "copy_key")
_SAME = (
    *("kind", "name", "text", "content_sha256", "media_type", "width", "height", "size_bytes", "part"),
    *_PLACE,
    *("perceptual_hash", *NO_FACTS, *NO_OCR),
)
_SAME_OF_SOURCE = ("name", "media_type", "content_sha256", "size_bytes", *_PLACE)
# each waits for the disk or the network
_THREADS = 8


@dataclass
class Transfer:
    """Some items of one collection on their way into another one.

    :meth:`prepare` copies their files, :meth:`write` their rows, in the caller's transaction, and after it
    :meth:`finish` deletes the files that no row names. After an error :meth:`discard` deletes the copies, unless the
    transaction may have been committed; then the sweep of orphaned files does.

    Attributes:
        moves: whether the items leave their collection.
        tells_places: whether the new rows say where referenced originals lie: editors of the other collection see that.
        new: the keys of the new items by those of the old ones.
        skipped: the items that are left where they are, with the reason.
    """

    storage: Storage
    target_id: UUID
    moves: bool
    tells_places: bool = True
    new: dict[UUID, UUID] = field(default_factory=dict)
    skipped: dict[UUID, Skipped] = field(default_factory=dict)
    _ids: dict[UUID, UUID] = field(default_factory=dict)
    _files: dict[UUID, dict[str, str]] = field(default_factory=dict)
    # whole files, each with the row that it gets
    _sources: dict[UUID, dict[str, Any]] = field(default_factory=dict)
    # all files that were made, and those that are not used after all
    _made: list[str] = field(default_factory=list)
    _unused: set[str] = field(default_factory=set)

    def prepare(self, sessions: Sessions, item_ids: Sequence[UUID], *conditions: sa.ColumnElement[bool]) -> None:
        """Copy the files of those of these items that meet the conditions, except those that are there already.

        Raises:
            StorageFull, OSError, or another exception of the store: a file can't be copied; no copy is left.
        """
        # in their order, in which the new ones are listed too
        self._ids = {key: new_id() for key in sorted(item_ids)}
        with transaction(sessions) as session:
            items = session.scalars(sa.select(Item).where(one_of(Item.id, item_ids), *conditions)).all()
            known = records.find_contents(session, self.target_id, [item.content_sha256 for item in items])
            items = [item for item in items if item.content_sha256 not in known]
            wholes = sa.select(Source).where(one_of(Source.id, {item.source_id for item in items if item.source_id}))
            sources = session.scalars(wholes.order_by(Source.content_sha256)).all()
        try:
            with ThreadPoolExecutor(_THREADS, thread_name_prefix="copy") as threads:
                copied = zip(items, threads.map(self._copy_files, items), strict=True)
                self._files = {item.id: keys for item, keys in copied if keys is not None}
                rows = zip(sources, threads.map(self._copy_source, sources), strict=True)
                self._sources = {source.id: row for source, row in rows if row is not None}
        except BaseException:
            self.discard()
            raise

    def write(self, session: Session, item_ids: Sequence[UUID], *conditions: sa.ColumnElement[bool]) -> None:
        """Write what was prepared, except what was deleted or came there meanwhile.

        Raises:
            NotFound: the other collection was deleted.
        """
        self.new, self.skipped = {}, {}
        mine = sa.select(Item.collection_id).where(one_of(Item.id, item_ids))
        locked = lock_collections(session, sa.or_(Collection.id == self.target_id, Collection.id.in_(mine)))
        if self.target_id not in locked:
            raise NotFound(f"There is no collection with the id {self.target_id}.")
        sources = self._name_sources(session, locked)
        items = records.lock_items(session, item_ids, *conditions, to_remove=self.moves)
        rows = [self._row(item, sources) for item in items if self._is_prepared(item)]
        inserted = records.insert_items(session, rows) if rows else set()
        self.new = {item.id: self._ids[item.id] for item in items if self._ids[item.id] in inserted}
        if self.new:
            self._copy_vectors(session)
        self._skip(session, [item for item in items if item.id not in self.new])
        emptied = records.empty_items(session, [item for item in items if item.id in self.new]) if self.moves else []
        emptied += records.remove_empty_sources(session, sources.values())
        named = {key for old in self.new for key in self._files[old].values()}
        named |= {row["file_key"] for old, row in self._sources.items() if sources[old] == row["id"]}
        self._unused = {*self._made, *emptied} - (named - {*emptied})

    def finish(self) -> None:
        """Delete the files that no row names now."""
        delete_files(self.storage, self._unused)

    def discard(self) -> None:
        """Delete all copies of files, since nothing was written."""
        delete_files(self.storage, self._made)

    def _copy(self, key: str, made: str) -> str:
        # noted before: a copy that fails may leave a part
        self._made.append(made)
        self.storage.copy(key, made)
        return made

    def _copy_files(self, item: Item) -> dict[str, str] | None:
        """Return the keys of the copies by their columns; None if the item was deleted meanwhile; a text has none."""
        folder, keys = item_folder(self._ids[item.id]), {}
        for name in _FILES:
            if (key := getattr(item, name)) is None:
                continue
            try:
                keys[name] = self._copy(key, f"{folder}/{key.rpartition('/')[2]}")
            except NotFound:
                # a working copy is made again when it is needed
                if name != "copy_key":
                    return None
        return keys

    def _copy_source(self, source: Source) -> dict[str, Any] | None:
        """Return the row of the copy of a whole file; None if it was deleted meanwhile."""
        key = new_id()
        try:
            made = self._copy(source.file_key, source_key(key) + suffix_like(source.file_key))
        except NotFound:
            return None
        same = {name: getattr(source, name) for name in _SAME_OF_SOURCE}
        return {**same, **self._untold, "id": key, "collection_id": self.target_id, "file_key": made}

    @property
    def _untold(self) -> dict[str, None]:
        return {} if self.tells_places else dict.fromkeys(_PLACE)

    def _is_prepared(self, item: Item) -> bool:
        return item.id in self._files and (item.source_id is None or item.source_id in self._sources)

    def _name_sources(self, session: Session, collection_ids: Sequence[UUID]) -> dict[UUID, UUID]:
        """Lock the whole files in both collections, and insert those that the other one lacks; return their keys."""
        contents = [row["content_sha256"] for row in self._sources.values()]
        both = sa.select(Source.id).where(
            Source.collection_id.in_(collection_ids), one_of(Source.content_sha256, contents)
        )
        session.execute(both.order_by(Source.content_sha256, Source.id).with_for_update())
        return {old: records.name_source(session, row) for old, row in self._sources.items()}

    def _row(self, item: Item, sources: dict[UUID, UUID]) -> dict[str, Any]:
        return {
            **{name: getattr(item, name) for name in _SAME},
            **self._untold,
            **dict.fromkeys(_FILES),
            **self._files[item.id],
            "id": self._ids[item.id],
            "collection_id": self.target_id,
            "source_id": sources[item.source_id] if item.source_id else None,
        }

    def _copy_vectors(self, session: Session) -> None:
        """Give the new items the vectors of the old ones that are up to date."""
        keys = (sa.literal(list(side), ARRAY(sa.Uuid)) for side in (self.new, self.new.values()))
        columns = sa.column("old", sa.Uuid), sa.column("new", sa.Uuid)
        pair = sa.func.unnest(*keys).table_valued(*columns).render_derived()
        values = {
            "item_id": pair.c.new,
            "model_id": Embedding.model_id,
            "collection_id": sa.literal(self.target_id, sa.Uuid),
            "item_version": sa.literal(1),
            "image_weight": Embedding.image_weight,
            "vector": Embedding.vector,
            # no attempt wrote them
            "token": sa.literal(new_id(), sa.Uuid),
        }
        query = sa.select(*values.values()).join_from(pair, Item, Item.id == pair.c.old)
        query = query.join(Embedding, sa.and_(Embedding.item_id == Item.id, Embedding.item_version == Item.version))
        session.execute(sa.insert(Embedding).from_select(list(values), query))

    def _skip(self, session: Session, items: Sequence[Item]) -> None:
        """Say why these items are left."""
        known = records.find_contents(session, self.target_id, [item.content_sha256 for item in items])
        for item in items:
            self.skipped[item.id] = Skipped.DUPLICATE if item.content_sha256 in known else Skipped.IN_USE
