"""The items of a collection: add, list, read, delete; shared by the API and the pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import ItemKind, ItemState
from retllm.db.session import run_transaction, transaction
from retllm.db.tables import Collection, Item, Source
from retllm.errors import Conflict, NotFound
from retllm.history.job_views import JobView
from retllm.identity import access
from retllm.identity.access import Right, collection_for, within_visible
from retllm.identity.actor import Actor
from retllm.identity.audit import Action
from retllm.indexing.counts import Counts, counts_of
from retllm.indexing.indexed import current_model, embedder_of, has_vector, is_ready
from retllm.media import ingest as media
from retllm.media.ingest import FileOutcome, IncomingFile, Ingest
from retllm.media.normalization import composed
from retllm.settings import Settings
from retllm.uploads.views import outcomes_of
from retllm_web.actions import submissions, uploads
from retllm_web.actions.auditing import record
from retllm_web.http.services import services

MAX_COMPARED = 10_000
"""Maximum number of items that are compared with filters for one page."""


class IndexState(StrEnum):
    """Whether the primary embedder of its collection has embedded an item."""

    INDEXED = "indexed"  # its vector is up to date
    MISSING = "missing"  # it has no vector yet
    FAILED = "failed"  # it has no vector, and its last embedding failed


@dataclass(frozen=True)
class Text:
    """A text to add; its default name is its beginning."""

    text: str
    name: str | None = None


@dataclass(frozen=True)
class UploadResult:
    """The outcomes of an upload, as far as they are known, and its job.

    Attributes:
        processed: whether every file has its outcome.
        job: the job that turns files into items and indexes them; of texts the index job, if anything is new.
    """

    outcomes: list[FileOutcome]
    processed: bool
    job: JobView | None


def add_files(
    actor: Actor,
    collection_id: UUID,
    files: Iterable[IncomingFile],
    *,
    index: bool = True,
    texts: bool = False,
    wait: float = 0,
) -> UploadResult:
    """Upload files into a collection that ``actor`` may change, and wait up to ``wait`` seconds for their outcomes.

    Raises:
        NotFound: no such collection.
    """
    files = list(files)
    if len(files) <= uploads.BATCH:
        job = uploads.begin_whole(actor, collection_id, files, index=index, texts=texts)
    else:
        job = uploads.begin(actor, collection_id, index=index, texts=texts)
        try:
            uploads.add(actor, job.id, files)
        finally:
            # what arrived before an error is processed
            uploads.close(actor, job.id)
    state = uploads.wait(job.id, wait)
    with transaction(services().sessions) as session:
        outcomes = outcomes_of(session, job.id)
    return UploadResult(outcomes, state.processed, job)


def add_texts(actor: Actor, collection_id: UUID, texts: Iterable[Text], *, index: bool = True) -> UploadResult:
    """Add texts to a collection that ``actor`` may change, and index it if anything is new.

    Raises:
        NotFound: no such collection.
    """
    found = services()
    with transaction(found.sessions) as session:
        collection = collection_for(session, actor, collection_id, Right.CHANGE)
    ingest = Ingest(found.sessions, found.storage, found.settings, collection_id)
    outcomes = ingest.add_texts((text.text, text.name) for text in texts)
    counts: Counter[str] = Counter(outcome.status for outcome in outcomes)
    changed = bool(counts["added"] or counts["updated"])
    if changed:
        with transaction(found.sessions) as session:
            record(
                session,
                Action.ITEMS_UPLOADED,
                user=actor,
                target=collection.name,
                target_id=collection_id,
                collection_id=collection_id,
                **counts,
            )
    return UploadResult(outcomes, True, _index(actor, collection_id) if index and changed else None)


def _index(actor: Actor, collection_id: UUID) -> JobView | None:
    try:
        return submissions.index(actor, collection_id)
    except Conflict:  # the new items were already deleted again
        return None


@dataclass(frozen=True)
class ItemFilters:
    """Filters of items; None and the empty text match all.

    Attributes:
        text: searched in names, texts and captions, ignoring case.
    """

    kind: ItemKind | None = None
    state: IndexState | None = None
    text: str = ""


@dataclass(frozen=True)
class ItemPage:
    """A page of items, oldest first, each with whether it is indexed; ``next`` is the key to request the next one.

    With filters, a page may have few items or none although there are more pages: it looks at ``MAX_COMPARED`` items.
    """

    items: Sequence[tuple[Item, bool]]
    next: UUID | None


def page(
    session: Session,
    collection: Collection,
    settings: Settings,
    filters: ItemFilters | None = None,
    *,
    after: UUID | None = None,
    limit: int = 50,
) -> ItemPage:
    """Return a page of items; ``after`` is ``next`` of the page before."""
    filters = filters or ItemFilters()
    model = current_model(session, embedder_of(collection, settings))
    indexed = has_vector(model, settings.item_image_weight)
    inside = [Item.collection_id == collection.id, is_ready(), *([Item.id > after] if after is not None else [])]
    last = None
    # an index has the failed ones
    if filters not in (ItemFilters(), ItemFilters(state=IndexState.FAILED)):
        counts = counts_of(session, [collection.id], settings.item_image_weight)[collection.id]
        if not _has_some(counts, filters, model.id if model is not None else None):
            return ItemPage([], None)
        compared = sa.select(Item.id).where(*inside).order_by(Item.id).offset(MAX_COMPARED - 1).limit(1)
        last = session.scalar(compared)
    query = sa.select(Item, indexed.label("indexed")).where(*inside).order_by(Item.id).limit(limit + 1)
    if last is not None:
        query = query.where(Item.id <= last)
    if filters.kind is not None:
        query = query.where(Item.kind == filters.kind)
    if filters.state is not None:
        query = query.where(*_in_state(filters.state, indexed))
    if filters.text:
        query = query.where(_contains(filters.text))
    rows = [(item, is_indexed) for item, is_indexed in session.execute(query)]
    return ItemPage(rows[:limit], rows[limit - 1][0].id if len(rows) > limit else last)


def _has_some(counts: Counts, filters: ItemFilters, model_id: UUID | None) -> bool:
    """Return whether any item is of this kind, and any in this state, by the kept counts."""
    embedded, failed = counts.embedded[model_id] if model_id else 0, counts.failed_without(model_id)
    missing = counts.kinds.total() - embedded - failed
    states = {IndexState.INDEXED: embedded, IndexState.MISSING: missing, IndexState.FAILED: failed}
    return (filters.kind is None or counts.kinds[filters.kind] > 0) and (
        filters.state is None or states[filters.state] > 0
    )


def _in_state(state: IndexState, indexed: sa.ColumnElement[bool]) -> tuple[sa.ColumnElement[bool], ...]:
    if state is IndexState.INDEXED:
        return (indexed,)
    error = Item.error.is_not(None) if state is IndexState.FAILED else Item.error.is_(None)
    return (~indexed, error)


def _contains(text: str) -> sa.ColumnElement[bool]:
    # names and texts are stored in this form; a file name that is copied on a Mac is in another one
    text = composed(text)
    contains = sa.or_(*(column.icontains(text, autoescape=True) for column in (Item.name, Item.text)))
    # The planner cannot estimate the selectivity of a CASE, so it scans the collection's index and stops when the page
    # is full. For a plain condition that it takes to be rare, it would scan the items of all collections.
    return sa.case((contains, sa.true()), else_=sa.false())


def item_for(session: Session, actor: Actor, item_id: UUID, settings: Settings) -> tuple[Item, bool]:
    """Return an item that ``actor`` may see, and whether it is indexed.

    Raises:
        NotFound: no such item, or it is deleted.
    """
    item = access.item_for(session, actor, item_id)
    if item.state is ItemState.DELETED:
        raise NotFound("There is no such item.")
    collection = session.get_one(Collection, item.collection_id)
    found = session.scalar(sa.select(_indexed(session, collection, settings)).where(Item.id == item_id))
    return item, bool(found)


def pictured(session: Session, actor: Actor, item_id: UUID) -> Item:
    """Return an item with a picture that ``actor`` may see; a single query, since a page requests many pictures.

    Raises:
        NotFound: no such item, or it is deleted or has no picture.
    """
    query = sa.select(Item).where(Item.id == item_id, is_ready(), within_visible(actor, Item.collection_id))
    item = session.scalar(query)
    if item is None:
        raise NotFound("There is no such item.")
    if item.picture_key is None or item.thumbnail_key is None:
        raise NotFound("This item has no picture.")
    return item


def source_of(session: Session, actor: Actor, item_id: UUID) -> Source:
    """Return the whole file of an item that ``actor`` may see.

    Raises:
        NotFound: no such item, or it is deleted or no part of a file.
    """
    item = session.scalar(
        sa.select(Item).where(Item.id == item_id, is_ready(), within_visible(actor, Item.collection_id))
    )
    if item is None:
        raise NotFound("There is no such item.")
    source = session.get(Source, item.source_id) if item.source_id is not None else None
    if source is None:
        raise NotFound("This item is no part of a file.")
    return source


def delete(actor: Actor, item_id: UUID) -> Item:
    """Delete an item's content and return the item; earlier results still show its name.

    Raises:
        NotFound: no such item that ``actor`` may see, or it is already deleted.
        Forbidden: they may not change its collection.
    """
    found = services()

    def remove(session: Session) -> Item:
        item = access.item_for(session, actor, item_id, Right.CHANGE)
        if item.state is ItemState.DELETED:
            raise NotFound("There is no such item.")
        record(
            session,
            Action.ITEM_DELETED,
            user=actor,
            target=item.name,
            target_id=item_id,
            collection_id=item.collection_id,
        )
        if not media.delete_item(session, found.storage, item):
            raise NotFound("There is no such item.")
        return item

    return run_transaction(found.sessions, remove)


def _indexed(session: Session, collection: Collection, settings: Settings) -> sa.ColumnElement[bool]:
    model = current_model(session, embedder_of(collection, settings))
    return has_vector(model, settings.item_image_weight)
