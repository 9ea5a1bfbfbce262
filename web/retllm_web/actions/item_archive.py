"""Items as a ZIP that is made while it is sent: their files, and sheets that an upload reads again.

Memory does not grow with the number of items: they are read a batch at a time, each in a transaction of its own, and
the directory of the archive waits for its end in a temporary file.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import BinaryIO, TypeVar
from uuid import UUID

import sqlalchemy as sa
import structlog
from flask import Flask, Response, current_app, g
from sqlalchemy.orm import Session, aliased

from retllm.db.enums import ItemState
from retllm.db.facts import folded
from retllm.db.many import one_of
from retllm.db.searches import Candidate
from retllm.db.session import transaction
from retllm.db.tables import Collection, Item, Source, new_id
from retllm.errors import Busy, Conflict, MediaRejected, NotFound
from retllm.identity.access import collection_for, gets_originals, sees_positions, visible_collections
from retllm.identity.actor import Actor
from retllm.indexing.indexed import is_ready
from retllm.media import streams
from retllm.media.formats import SUFFIXES, WHOLE_SUFFIXES
from retllm.media.sheets import item_sheets
from retllm.media.sources import part_name
from retllm.review import marks
from retllm_web.actions import archive_names, item_lists
from retllm_web.actions.item_lists import ItemFilters
from retllm_web.actions.zip_pieces import ZipPieces
from retllm_web.http import long_answers, pictures, spreadsheet
from retllm_web.http.services import services

log = structlog.get_logger(__name__)

BATCH = 200
"""Items that are read in one transaction."""
# bytes of a sheet from which on a further one begins; an upload takes larger ones
_SHEET_BYTES = 8 << 20
# whole files whose other parts may still come; those of one file follow each other
_SOURCES = 100
# a request without a slot may wait: for a decoder, or for others that compare items
_TRIES, _WAIT_SECONDS = 60, 1.0
_CHUNK = 1 << 16
# absent items that an error names
_NAMED = 3
T = TypeVar("T")


@dataclass(frozen=True)
class Wanted:
    """Items of collections: those with these keys, in their order, or all of one collection that match filters."""

    collections: Sequence[UUID]
    keys: Sequence[UUID] | None = None
    filters: ItemFilters = field(default_factory=ItemFilters)


@dataclass(frozen=True)
class _Batch:
    """Some items, the whole files that they are parts of, and which of them have the name of an earlier one.

    ``originals`` and ``places``: whether the account may have the files, and know where they were made.
    """

    items: Sequence[Item]
    sources: Mapping[UUID, Source]
    twins: set[UUID]
    originals: bool
    places: bool


def of_items(session: Session, actor: Actor, collection_id: UUID, keys: Sequence[UUID]) -> Wanted:
    """Return these items of a collection.

    Raises:
        NotFound: there is no such collection that ``actor`` may see, or one of the items is not in it.
    """
    collection_for(session, actor, collection_id)
    query = sa.select(Item.id).where(one_of(Item.id, keys), Item.collection_id == collection_id, is_ready())
    absent = sorted(map(str, set(keys) - set(session.scalars(query))))
    if absent:
        more = f" and {len(absent) - _NAMED:,} more" if len(absent) > _NAMED else ""
        raise NotFound(f"Not in this collection: {', '.join(absent[:_NAMED])}{more}. Leave them out.", items=absent)
    return Wanted([collection_id], keys)


def of_search(session: Session, actor: Actor, search_id: UUID, *, marked: bool) -> Wanted:
    """Return the results of a search, best first, or the items that are marked as relevant to its query.

    Raises:
        NotFound: there is no such search that ``actor`` may see.
        Conflict: there are none.
    """
    asked = marks.asked_by(session, actor, search_id)
    if marked:
        keys = [mark.item_id for mark in marks.marks_of(session, asked) if mark.relevant and not mark.deleted]
    else:
        rank = sa.func.coalesce(Candidate.final_rank, Candidate.coarse_rank)
        ranked = sa.select(Candidate.item_id).where(Candidate.search_id == search_id).order_by(rank)
        keys = list(session.scalars(ranked))
    if not keys:
        raise Conflict("No item is marked as relevant to this query." if marked else "This search has no results.")
    return Wanted(asked.collections, keys)


def send(actor: Actor, wanted: Wanted) -> Response:
    """Return the items as an attachment; whether ``actor`` may have them is looked at again for each batch.

    Raises:
        NotFound: there is no such collection that ``actor`` may see.
        InvalidInput, Busy: see :func:`retllm_web.actions.item_lists.page`; Busy also if too many exports are made.
    """
    with transaction(services().sessions) as session:
        names = [collection_for(session, actor, key).name for key in wanted.collections]
    later = _Later(current_app._get_current_object(), actor)  # type: ignore[attr-defined]  # of a proxy
    batches = _batches(later, wanted)
    # what is wrong with the request is told before the answer begins
    first = next(batches, None)
    pieces = _pieces(later, chain([first] if first else [], batches))
    response = long_answers.export(pieces, "application/zip", "items.zip")
    response.headers["Content-Disposition"] = pictures.attachment(names[0] if len(names) == 1 else "results", ".zip")
    return response


@dataclass(frozen=True)
class _Later:
    """Does parts of a request that has ended but for its answer, as its account."""

    app: Flask
    actor: Actor

    def do(self, act: Callable[[], T]) -> T:
        """Return what ``act`` returns in a context of the app."""
        with self.app.app_context():
            g.actor = self.actor
            return act()

    def patiently(self, act: Callable[[], T]) -> T:
        """Return what ``act`` returns, which may find the server busy for a while.

        Raises:
            Busy: it was for long.
        """
        for _ in range(_TRIES):
            try:
                return self.do(act)
            except Busy as error:
                time.sleep(float(error.detail.get("retry_after", _WAIT_SECONDS)))
        raise Busy


def _batches(later: _Later, wanted: Wanted) -> Iterator[_Batch]:
    if wanted.keys is not None:
        keys = list(dict.fromkeys(wanted.keys))
        for start in range(0, len(keys), BATCH):
            yield from later.do(partial(_named, later.actor, wanted.collections, keys[start : start + BATCH]))
        return
    # what comes later stays out of it
    upto = new_id()
    batch, after = later.do(partial(_matching, later.actor, wanted, None))
    while True:
        yield replace(batch, items=[item for item in batch.items if item.id <= upto])
        if after is None or after > upto:
            return
        batch, after = later.patiently(partial(_matching, later.actor, wanted, after))


def _matching(actor: Actor, wanted: Wanted, after: UUID | None) -> tuple[_Batch, UUID | None]:
    """Return the items that match after one, and the key after which to go on."""
    with transaction(services().sessions) as session:
        collection = collection_for(session, actor, wanted.collections[0])
        settings = services().settings
        page = item_lists.page(session, collection, settings, wanted.filters, after=after, limit=BATCH)
        return _batch(session, actor, collection, [item for item, _ in page.items]), page.next


def _named(actor: Actor, collections: Sequence[UUID], keys: Sequence[UUID]) -> list[_Batch]:
    """Return those of these items that are there, a batch for each collection that ``actor`` may still see."""
    with transaction(services().sessions) as session:
        if len(collections) == 1:
            collection_for(session, actor, collections[0])
        seen = sa.select(Collection).where(visible_collections(actor), one_of(Collection.id, collections))
        batches = []
        for collection in session.scalars(seen.order_by(Collection.id)).all():
            query = sa.select(Item).where(one_of(Item.id, keys), Item.collection_id == collection.id, is_ready())
            found = {item.id: item for item in session.scalars(query)}
            batch = _batch(session, actor, collection, [found[key] for key in keys if key in found])
            # another collection may have the name of each
            batches.append(batch if len(collections) == 1 else replace(batch, twins={*found}))
        return batches


def _batch(session: Session, actor: Actor, collection: Collection, items: Sequence[Item]) -> _Batch:
    wholes = {item.source_id for item in items if item.source_id is not None}
    sources = session.scalars(sa.select(Source).where(one_of(Source.id, wholes))).all() if wholes else []
    other = aliased(Item)
    # looked up by the index of names for each item, as the planner does with no EXISTS
    earlier = (
        sa.select(other.id)
        .where(
            other.collection_id == collection.id,
            other.state == ItemState.READY,
            # file systems take names for the same that differ by capital letters
            folded(other.name) == folded(Item.name),
            other.id < Item.id,
        )
        .limit(1)
        .correlate(Item)
        .scalar_subquery()
    )
    twins = sa.select(Item.id).where(one_of(Item.id, [item.id for item in items]), earlier.is_not(None))
    return _Batch(
        items,
        {source.id: source for source in sources},
        set(session.scalars(twins)) if items else set(),
        gets_originals(session, actor, collection),
        sees_positions(session, actor, collection),
    )


def _pieces(later: _Later, batches: Iterator[_Batch]) -> Iterator[bytes]:
    archive = _Archive(later)
    for batch in batches:
        for item in batch.items:
            yield from archive.add(item, batch)
    yield from archive.end()


class _Archive:
    """An archive that is being sent."""

    def __init__(self, later: _Later) -> None:
        self._later = later
        self._storage = later.do(services).storage
        self._zip = ZipPieces()
        self._sources: OrderedDict[UUID, str] = OrderedDict()
        self._rows: list[bytes] = []
        self._size = 0
        self._sheets = 0
        self._places: bool | None = None

    def add(self, item: Item, batch: _Batch) -> Iterator[bytes]:
        """Yield the file of an item, if no earlier one has it, and note its row; a file that is gone is left out."""
        path = ""
        if item.picture_key is not None:
            try:
                path = yield from self._file(item, batch)
            except (NotFound, MediaRejected) as error:
                log.info("archive.left_out", item_id=str(item.id), reason=error.message)
                return
        yield from self._note(item, path, batch)

    def end(self) -> Iterator[bytes]:
        """Yield the last sheet and the directory."""
        yield from self._sheet()
        yield from self._zip.end()

    def _file(self, item: Item, batch: _Batch) -> Generator[bytes, None, str]:
        """Yield the file of an item; return its path."""
        source = batch.sources.get(item.source_id) if item.source_id is not None else None
        is_twin = item.id in batch.twins
        if not batch.originals:
            make = partial(pictures.plain_copy, item.picture_key or "", item.content_sha256, item.copy_key)
            copy = self._later.patiently(make)
            path = archive_names.path_of(item.name, item.id, SUFFIXES[copy.media_type], is_twin=is_twin, exactly=True)
            yield from self._copied(copy.stream, path)
            return path
        if source is None:
            path = archive_names.path_of(item.name, item.id, SUFFIXES.get(item.media_type or "", ""), is_twin=is_twin)
            yield from self._copied(self._storage.open(item.picture_key or ""), path)
            return path
        if source.id not in self._sources:
            # others may have its name
            path = archive_names.path_of(
                source.name, source.id, WHOLE_SUFFIXES.get(source.media_type, ""), is_twin=True
            )
            yield from self._copied(self._storage.open(source.file_key), path)
            self._sources[source.id] = path
            while len(self._sources) > _SOURCES:
                self._sources.popitem(last=False)
        return part_name(self._sources[source.id], item.part or {})

    def _copied(self, stream: BinaryIO, path: str) -> Iterator[bytes]:
        with stream:
            yield from self._zip.file(path, iter(lambda: stream.read(_CHUNK), b""), streams.length(stream))

    def _note(self, item: Item, path: str, batch: _Batch) -> Iterator[bytes]:
        if self._places is not batch.places:
            yield from self._sheet()
            self._places = batch.places
        if not self._rows:
            header = spreadsheet.marked([spreadsheet.line(item_sheets.columns(with_places=batch.places))])
            self._rows, self._size = ["".join(header).encode()], 0
        row = spreadsheet.row(item_sheets.cells(item, path, with_places=batch.places)).encode()
        self._rows.append(row)
        self._size += len(row)
        if self._size >= _SHEET_BYTES:
            yield from self._sheet()

    def _sheet(self) -> Iterator[bytes]:
        if not self._rows:
            return
        self._sheets += 1
        name = f"{item_sheets.SHEET}{'' if self._sheets == 1 else f'-{self._sheets}'}.csv"
        yield from self._zip.text(name, b"".join(self._rows))
        self._rows = []
