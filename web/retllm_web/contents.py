"""What is in a collection, as the API and the pages share it: take files in, list, find."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.access import Right, collection_for, within_visible
from retllm.db.enums import ItemKind, ItemState
from retllm.db.session import transaction
from retllm.db.tables import Collection, Embedding, Item, User
from retllm.errors import Conflict, NotFound
from retllm.jobs.indexed import current_model, fresh_embedding
from retllm.jobs.schemas import JobView
from retllm.media.ingest import IncomingFile, Ingest, Outcome
from retllm.settings import Settings
from retllm_web import submissions
from retllm_web.services import services


@dataclass(frozen=True)
class Text:
    """A text to take in; without a name it goes by its beginning."""

    text: str
    name: str | None = None


@dataclass(frozen=True)
class Taken:
    """What came of an upload: one outcome for each thing in it, and the index job that follows, if any."""

    outcomes: list[Outcome]
    job: JobView | None


def take(
    user: User,
    collection_id: UUID,
    *,
    files: Iterable[IncomingFile] = (),
    texts: Iterable[Text] = (),
    index: bool = True,
) -> Taken:
    """Take files and texts into a collection that ``user`` may change, and index it if anything is new.

    Raises:
        NotFound: no such collection.
    """
    found = services()
    with transaction(found.sessions) as session:
        collection_for(session, user, collection_id, Right.CHANGE)
    ingest = Ingest(found.sessions, found.storage, found.settings, collection_id)
    outcomes = ingest.add_files(files)
    outcomes += [ingest.add_text(one.text, one.name) for one in texts]
    news = any(outcome.status in ("added", "updated") for outcome in outcomes)
    return Taken(outcomes, _index(user, collection_id) if index and news else None)


def _index(user: User, collection_id: UUID) -> JobView | None:
    try:
        return submissions.index(user, collection_id)
    except Conflict:  # what came in was deleted again already
        return None


def page(
    session: Session,
    collection: Collection,
    settings: Settings,
    *,
    kind: ItemKind | None = None,
    q: str | None = None,
    after: UUID | None = None,
    limit: int = 50,
) -> list[tuple[Item, bool]]:
    """Items in the order they came, each with whether it is indexed; ``q`` is looked for in their names."""
    wanted = _with_indexed(session, settings).where(Item.collection_id == collection.id).order_by(Item.id).limit(limit)
    if kind is not None:
        wanted = wanted.where(Item.kind == kind)
    if q:
        wanted = wanted.where(Item.name.icontains(q, autoescape=True))
    if after is not None:
        wanted = wanted.where(Item.id > after)
    return [(item, indexed) for item, indexed in session.execute(wanted)]


def item_for(session: Session, user: User, item_id: UUID, settings: Settings) -> tuple[Item, bool]:
    """An item that ``user`` may see, and whether it is indexed.

    Raises:
        NotFound: there is none (any more), or it is someone else's.
    """
    wanted = _with_indexed(session, settings).where(Item.id == item_id)
    wanted = wanted.where(within_visible(user, Item.collection_id))
    row = session.execute(wanted).first()
    if row is None:
        raise NotFound("There is no such item.")
    return row[0], row[1]


def _with_indexed(session: Session, settings: Settings) -> sa.Select[Item, bool]:
    model = current_model(session, settings.embedder_name)
    indexed: sa.ColumnElement[bool] = sa.false()
    if model is not None:
        indexed = sa.exists(Embedding.item_id).where(fresh_embedding(model.id, settings.item_image_weight))
    return sa.select(Item, indexed.label("indexed")).where(Item.state == ItemState.READY)
