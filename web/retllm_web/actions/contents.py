"""What is in a collection, as the API and the pages share it: take files in, list, find."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import ItemKind, ItemState
from retllm.db.session import run_transaction, transaction
from retllm.db.tables import Collection, Item
from retllm.errors import Conflict, NotFound
from retllm.history.job_views import JobView
from retllm.identity import access
from retllm.identity.access import Right, collection_for, within_visible
from retllm.identity.actor import Actor
from retllm.identity.audit import Action
from retllm.indexing.indexed import current_model, embedder_of, has_vector, is_ready
from retllm.media import ingest as media
from retllm.media.batch import add_files
from retllm.media.ingest import FileOutcome, IncomingFile, Ingest
from retllm.settings import Settings
from retllm_web.actions import submissions
from retllm_web.actions.auditing import note
from retllm_web.http.services import services


class IndexState(StrEnum):
    """How far an item is on its way to being found, by the embedder that its collection uses."""

    INDEXED = "indexed"  # its vector is up to date
    MISSING = "missing"  # it has none yet
    FAILED = "failed"  # it has none, and could not be embedded the last time


@dataclass(frozen=True)
class Text:
    """A text to take in; without a name it goes by its beginning."""

    text: str
    name: str | None = None


@dataclass(frozen=True)
class Taken:
    """What came of an upload: one outcome for each thing in it, and the index job that follows, if any."""

    outcomes: list[FileOutcome]
    job: JobView | None


def take(
    actor: Actor,
    collection_id: UUID,
    *,
    files: Iterable[IncomingFile] = (),
    texts: Iterable[Text] = (),
    index: bool = True,
) -> Taken:
    """Take files and texts into a collection that ``actor`` may change, and index it if anything is new.

    Raises:
        NotFound: no such collection.
    """
    found = services()
    with transaction(found.sessions) as session:
        collection = collection_for(session, actor, collection_id, Right.CHANGE)
    ingest = Ingest(found.sessions, found.storage, found.settings, collection_id)
    outcomes = add_files(ingest, files)
    outcomes += ingest.add_texts((one.text, one.name) for one in texts)
    counts: Counter[str] = Counter(outcome.status for outcome in outcomes)
    news = bool(counts["added"] or counts["updated"])
    if news:
        with transaction(found.sessions) as session:
            note(
                session,
                Action.ITEMS_UPLOADED,
                user=actor,
                target=collection.name,
                target_id=collection_id,
                collection_id=collection_id,
                **counts,
            )
    return Taken(outcomes, _index(actor, collection_id) if index and news else None)


def _index(actor: Actor, collection_id: UUID) -> JobView | None:
    try:
        return submissions.index(actor, collection_id)
    except Conflict:  # what came in was deleted again already
        return None


@dataclass(frozen=True)
class ItemFilters:
    """Which items of a collection; None and the empty text filter nothing.

    Attributes:
        text: looked for in names, texts and captions, in any case.
    """

    kind: ItemKind | None = None
    standing: IndexState | None = None
    text: str = ""


def page(
    session: Session,
    collection: Collection,
    settings: Settings,
    filters: ItemFilters | None = None,
    *,
    after: UUID | None = None,
    limit: int = 50,
) -> list[tuple[Item, bool]]:
    """Items in the order they came, each with whether it is indexed."""
    filters = filters or ItemFilters()
    indexed = _indexed(session, collection, settings)
    wanted = sa.select(Item, indexed.label("indexed")).where(Item.collection_id == collection.id, is_ready())
    wanted = wanted.order_by(Item.id).limit(limit)
    if filters.kind is not None:
        wanted = wanted.where(Item.kind == filters.kind)
    if filters.standing is not None:
        wanted = wanted.where(*_of_standing(filters.standing, indexed))
    if filters.text:
        wanted = wanted.where(_holds(filters.text))
    if after is not None:
        wanted = wanted.where(Item.id > after)
    return [(item, is_indexed) for item, is_indexed in session.execute(wanted)]


def _of_standing(standing: IndexState, indexed: sa.ColumnElement[bool]) -> tuple[sa.ColumnElement[bool], ...]:
    if standing is IndexState.INDEXED:
        return (indexed,)
    error = Item.error.is_not(None) if standing is IndexState.FAILED else Item.error.is_(None)
    return (~indexed, error)


def _holds(text: str) -> sa.ColumnElement[bool]:
    has = sa.or_(*(column.icontains(text, autoescape=True) for column in (Item.name, Item.text)))
    # A case tells the planner nothing of how rare the text is: it goes along the collection's index, and stops when the
    # page is full, where it would read the tables of all collections through for a text that it takes to be rare.
    return sa.case((has, sa.true()), else_=sa.false())


def item_for(session: Session, actor: Actor, item_id: UUID, settings: Settings) -> tuple[Item, bool]:
    """An item that ``actor`` may see, and whether it is indexed.

    Raises:
        NotFound: there is none (any more) that they may see.
    """
    item = access.item_for(session, actor, item_id)
    if item.state is ItemState.DELETED:
        raise NotFound("There is no such item.")
    collection = session.get_one(Collection, item.collection_id)
    found = session.scalar(sa.select(_indexed(session, collection, settings)).where(Item.id == item_id))
    return item, bool(found)


def pictured(session: Session, actor: Actor, item_id: UUID) -> Item:
    """An item with a picture that ``actor`` may see; one query, for a page asks for many.

    Raises:
        NotFound: there is none (any more) that they may see, or it has no picture.
    """
    wanted = sa.select(Item).where(Item.id == item_id, is_ready(), within_visible(actor, Item.collection_id))
    item = session.scalar(wanted)
    if item is None:
        raise NotFound("There is no such item.")
    if item.picture_key is None or item.thumbnail_key is None:
        raise NotFound("This item has no picture.")
    return item


def delete(actor: Actor, item_id: UUID) -> Item:
    """Delete an item's content; returns the item as it was. Old results still name it.

    Raises:
        NotFound: there is none (any more) that ``actor`` may see.
        Forbidden: they may not change its collection.
    """
    found = services()

    def remove(session: Session) -> Item:
        item = access.item_for(session, actor, item_id, Right.CHANGE)
        if item.state is ItemState.DELETED:
            raise NotFound("There is no such item.")
        note(
            session,
            Action.ITEM_DELETED,
            user=actor,
            target=item.name,
            target_id=item_id,
            collection_id=item.collection_id,
        )
        media.delete_item(session, found.storage, item)
        return item

    return run_transaction(found.sessions, remove)


def _indexed(session: Session, collection: Collection, settings: Settings) -> sa.ColumnElement[bool]:
    model = current_model(session, embedder_of(collection, settings))
    return has_vector(model, settings.item_image_weight)
