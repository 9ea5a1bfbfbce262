"""Marks of items as relevant or not relevant to a query; the last one counts. Searches with one query share them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import REGCONFIG, insert
from sqlalchemy.orm import Session

from retllm.db.enums import ItemKind, ItemState, TokenScope
from retllm.db.locks import lock_collection
from retllm.db.reviews import Judgment
from retllm.db.searches import Candidate, Search
from retllm.db.tables import ITEM_WORDS, Collection, Item, User
from retllm.errors import Conflict, InvalidInput, NotFound
from retllm.identity.access import collections_of, job_for, require_scope
from retllm.identity.actor import Actor
from retllm.media.normalization import composed

# marks of one query; far more than people mark by hand
MAX_MARKS = 1000
_FOUND = 12


@dataclass(frozen=True)
class Mark:
    """A mark, with the fields that pages show beside it.

    ``user_name`` is None if that account was deleted. The ranks are those in one search; ``coarse_rank`` is None if the
    item is not a candidate of it, ``final_rank`` also while its order is provisional.
    """

    item_id: UUID
    relevant: bool
    user_name: str | None
    updated_at: datetime
    name: str
    kind: ItemKind
    text: str | None
    has_thumbnail: bool
    state: ItemState
    coarse_rank: int | None
    final_rank: int | None

    @property
    def deleted(self) -> bool:
        """Whether the item is deleted or in the trash."""
        return self.state is not ItemState.READY


@dataclass(frozen=True)
class Asked:
    """The query of a search, and its collections that the account may see.

    ``question`` is the hash of the query (``Search.question``). A mark is of the item's collection, so that searches of
    several share it with those of one.
    """

    search_id: UUID
    collections: Sequence[UUID]
    question: str


def asked_by(session: Session, actor: Actor, search_id: UUID) -> Asked:
    """Return the query of a search; everyone who may see a search may review it.

    Raises:
        NotFound: ``actor`` sees no such search, or the job is not a search.
    """
    job = job_for(session, actor, search_id)
    question = session.scalar(sa.select(Search.question).where(Search.id == search_id))
    if question is None:
        raise NotFound("This job is not a search.")
    theirs = [job.collection_id] if job.collection_id else list(collections_of(session, actor, job))
    return Asked(search_id, theirs, question)


def set_mark(session: Session, actor: Actor, search_id: UUID, item_id: UUID, relevant: bool | None) -> Asked:
    """Mark an item as relevant or not relevant to the query of a search, or remove its mark (None).

    The item may be any item of its collections, found by the search or not.

    Raises:
        NotFound: no such search, or its collections have no such item.
        Forbidden: the actor has a smaller scope than ``search``.
        Conflict: the item is deleted, or the query has too many marks.
    """
    asked = asked_by(session, actor, search_id)
    require_scope(actor, TokenScope.SEARCH)
    within = sa.select(Item.state, Item.collection_id).where(
        Item.id == item_id, Item.collection_id.in_(asked.collections)
    )
    found = session.execute(within).one_or_none()
    if found is None:
        raise NotFound("The collection has no such item.")
    state, collection_id = found
    # lock in the order of retllm.db.locks, before the row of the mark
    lock_collection(session, collection_id)
    search = sa.select(Search.id).where(Search.id == search_id).with_for_update(read=True, key_share=True)
    if session.scalar(search) is None:
        raise NotFound("There is no such job.")
    if relevant is None:
        session.execute(sa.delete(Judgment).where(_of(asked), Judgment.item_id == item_id))
        return asked
    if state is not ItemState.READY:
        raise Conflict("The item is deleted and cannot be marked.")
    _require_room(session, asked, item_id)
    made = insert(Judgment).values(
        collection_id=collection_id,
        question=asked.question,
        item_id=item_id,
        relevant=relevant,
        user_id=actor.id,
        search_id=search_id,
    )
    session.execute(
        made.on_conflict_do_update(
            index_elements=["collection_id", "question", "item_id"],
            set_={
                "relevant": made.excluded.relevant,
                "user_id": made.excluded.user_id,
                "search_id": made.excluded.search_id,
                "updated_at": sa.func.clock_timestamp(),
            },
        )
    )
    return asked


def _of(asked: Asked) -> sa.ColumnElement[bool]:
    return sa.and_(Judgment.collection_id.in_(asked.collections), Judgment.question == asked.question)


def _require_room(session: Session, asked: Asked, item_id: UUID) -> None:
    others = sa.select(sa.func.count()).select_from(Judgment).where(_of(asked), Judgment.item_id != item_id)
    count = session.scalar(others) or 0
    if count >= MAX_MARKS:
        raise Conflict(f"This query has {MAX_MARKS:,} marks, the maximum. Remove some first.")


def marks_of(session: Session, asked: Asked) -> list[Mark]:
    """Return the marks of a query: relevant items first, then by time, newest first."""
    query = (
        sa.select(
            Judgment.item_id,
            Judgment.relevant,
            User.name,
            Judgment.updated_at,
            Item.name,
            Item.kind,
            Item.shown_text,
            Item.shows_picture,
            Item.state,
            Candidate.coarse_rank,
            Candidate.final_rank,
        )
        .join(Item, Item.id == Judgment.item_id)
        .outerjoin(Candidate, sa.and_(Candidate.search_id == asked.search_id, Candidate.item_id == Judgment.item_id))
        .outerjoin(User, User.id == Judgment.user_id)
        .where(_of(asked))
        .order_by(Judgment.relevant.desc(), Judgment.updated_at.desc(), Judgment.item_id)
    )
    return [Mark(*row) for row in session.execute(query)]


def find_items(session: Session, asked: Asked, text: str) -> list[Item]:
    """Find items of the collections by key, by words of their text, or by part of their name; at most 12 in all.

    Raises:
        InvalidInput: ``text`` is empty.
    """
    text = composed(text.replace("\0", "").strip())
    if not text:
        raise InvalidInput("Enter a name, words of the text, or the ID of an item.", field="find")
    key = _key(text)
    if key is not None:
        inside = Item.collection_id.in_(asked.collections), Item.state == ItemState.READY
        return list(session.scalars(sa.select(Item).where(Item.id == key, *inside)))
    found: list[Item] = []
    for collection in session.scalars(sa.select(Collection).where(Collection.id.in_(asked.collections))):
        if len(found) < _FOUND:
            found += _find_in(session, collection, text)
    return found[:_FOUND]


def _find_in(session: Session, collection: Collection, text: str) -> list[Item]:
    inside = sa.select(Item).where(Item.collection_id == collection.id, Item.state == ItemState.READY)
    # part of the statement, so that the planner knows the configuration
    language = sa.literal(collection.language, literal_execute=True)
    words = sa.func.websearch_to_tsquery(sa.cast(language, REGCONFIG), text)
    # CASE hides the selectivity of the name from the planner, so that it scans the collection and not the whole table
    named = sa.case((Item.name.icontains(text, autoescape=True), sa.true()), else_=sa.false())
    by_name = inside.where(named)
    by_words = inside.where(ITEM_WORDS.op("@@")(words))
    found: dict[UUID, Item] = {}
    for query in (by_name, by_words):
        for item in session.scalars(query.order_by(Item.id.desc()).limit(_FOUND)):
            found.setdefault(item.id, item)
    return list(found.values())[:_FOUND]


def _key(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
