"""The items of a collection: add, list, read, delete; shared by the API and the pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import ItemState
from retllm.db.session import run_transaction, transaction
from retllm.db.tables import Collection, Item, Source, in_trash
from retllm.errors import Conflict, Forbidden, NotFound
from retllm.history.job_views import JobView
from retllm.identity import access
from retllm.identity.access import Right, changeable_collections, collection_for, within_visible
from retllm.identity.actor import Actor
from retllm.identity.audit import Action
from retllm.indexing.indexed import current_model, embedder_of, has_vector, is_ready
from retllm.media import ingest as media
from retllm.media import records
from retllm.media.editing import change_item
from retllm.media.ingest import FileOutcome, IncomingFile, Ingest
from retllm.media.trash import trash_items
from retllm.settings import Settings
from retllm.uploads.views import outcomes_of
from retllm_web.actions import submissions, uploads
from retllm_web.actions.auditing import record, record_collection
from retllm_web.http.services import services


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
    state = uploads.wait(actor, job.id, wait)
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
            record_collection(session, Action.ITEMS_UPLOADED, collection, user=actor, **counts)
    return UploadResult(outcomes, True, _index(actor, collection_id) if index and changed else None)


def _index(actor: Actor, collection_id: UUID) -> JobView | None:
    try:
        return submissions.index(actor, collection_id)
    except Conflict:  # the new items were already deleted again
        return None


def item_for(session: Session, actor: Actor, item_id: UUID, settings: Settings) -> tuple[Item, bool]:
    """Return an item that ``actor`` may see, and whether it is indexed.

    Raises:
        NotFound: no such item, or it is deleted.
    """
    item = access.item_for(session, actor, item_id)
    if item.state is not ItemState.READY:
        raise NotFound("There is no such item.")
    collection = session.get_one(Collection, item.collection_id)
    found = session.scalar(sa.select(_indexed(session, collection, settings)).where(Item.id == item_id))
    return item, bool(found)


def pictured(session: Session, actor: Actor, item_id: UUID, *, trashed: bool = False) -> Item:
    """Return an item with a picture that ``actor`` may see; a single query, since a page requests many pictures.

    With ``trashed`` it may be in the trash of a collection that they may change.

    Raises:
        NotFound: no such item, or it is deleted or has no picture.
    """
    there = is_ready()
    if trashed:
        mine = sa.select(Collection.id).where(changeable_collections(actor))
        there = sa.or_(there, sa.and_(in_trash(Item.collection_id), Item.collection_id.in_(mine)))
    query = sa.select(Item).where(Item.id == item_id, there, within_visible(actor, Item.collection_id))
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
        Forbidden: ``actor`` may not see where the items of the collection were made, which the file tells.
    """
    item = session.scalar(
        sa.select(Item).where(Item.id == item_id, is_ready(), within_visible(actor, Item.collection_id))
    )
    if item is None:
        raise NotFound("There is no such item.")
    source = session.get(Source, item.source_id) if item.source_id is not None else None
    if source is None:
        raise NotFound("This item is no part of a file.")
    if not access.gets_originals(session, actor, session.get_one(Collection, item.collection_id)):
        raise Forbidden(
            "The whole file can tell where it was made, which only editors of this collection may see. Its pages or "
            "frames can be downloaded."
        )
    return source


def change(actor: Actor, item_id: UUID, given: Mapping[str, Any]) -> None:
    """Change an item, see :func:`retllm.media.editing.change_item`.

    Raises:
        NotFound: no such item that ``actor`` may see, or it was deleted.
        Forbidden: they may not change its collection.
        InvalidInput, Conflict: see there.
    """
    found = services()

    def write(session: Session) -> None:
        item = access.item_for(session, actor, item_id, Right.CHANGE)
        before = item.name
        change_item(session, item_id, given, found.settings)
        record(
            session,
            Action.ITEM_CHANGED,
            user=actor,
            target=before,
            target_id=item_id,
            collection_id=item.collection_id,
            changed=sorted(given),
        )

    run_transaction(found.sessions, write)


def delete(actor: Actor, item_id: UUID) -> Item:
    """Put an item into the trash and return it; earlier results still show its name.

    If there is no trash (``trash_days`` 0), its content is deleted for good.

    Raises:
        NotFound: no such item that ``actor`` may see, or it is already deleted.
        Forbidden: they may not change its collection.
    """
    found = services()
    days = found.settings.trash_days

    def remove(session: Session) -> Item:
        item = access.item_for(session, actor, item_id, Right.CHANGE)
        if item.state is not ItemState.READY:
            raise NotFound("There is no such item.")
        record(
            session,
            Action.ITEM_DELETED,
            user=actor,
            target=item.name,
            target_id=item_id,
            collection_id=item.collection_id,
        )
        if days and (items := records.lock_items(session, [item_id])):
            trash_items(session, items, days=days, by=actor.id)
        elif days or not media.delete_item(session, found.storage, item):
            raise NotFound("There is no such item.")
        return item

    return run_transaction(found.sessions, remove)


def _indexed(session: Session, collection: Collection, settings: Settings) -> sa.ColumnElement[bool]:
    model = current_model(session, embedder_of(collection, settings))
    return has_vector(model, settings.item_image_weight)
