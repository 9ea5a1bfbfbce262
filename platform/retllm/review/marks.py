"""Marks: whether an item answers a question. The last one counts, and every search of the same question shares it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from retllm.db.enums import ItemKind, ItemState
from retllm.db.locks import lock_collection
from retllm.db.reviews import Judgment
from retllm.db.tables import ITEM_WORDS, Candidate, Item, Search, User
from retllm.errors import Conflict, InvalidInput, NotFound
from retllm.identity.access import job_for
from retllm.identity.actor import Actor

# marks of one question; far beyond what people mark by hand
MAX_MARKS = 1000
_FOUND = 12


@dataclass(frozen=True)
class Mark:
    """A mark with what is shown beside it.

    ``user_name`` is None once that account is gone; the ranks are those of the search that is looked at, None where
    the item is no candidate of it (``coarse_rank``) or its order is provisional (``final_rank``).
    """

    item_id: UUID
    relevant: bool
    user_name: str | None
    updated_at: datetime
    name: str
    kind: ItemKind
    text: str | None
    has_thumbnail: bool
    deleted: bool
    coarse_rank: int | None
    final_rank: int | None


@dataclass(frozen=True)
class Asked:
    """Which question a search asks, and of which collection."""

    search_id: UUID
    collection_id: UUID
    question: str


def asked_by(session: Session, actor: Actor, search_id: UUID) -> Asked:
    """The question of a search that ``actor`` may see; seeing it is the right to review it.

    Raises:
        NotFound: there is no such search for this account, or the job is no search.
    """
    job = job_for(session, actor, search_id)
    question = session.scalar(sa.select(Search.question).where(Search.id == search_id))
    if question is None:
        raise NotFound("This job is no search.")
    return Asked(search_id, job.collection_id, question)


def set_mark(session: Session, actor: Actor, search_id: UUID, item_id: UUID, relevant: bool | None) -> Asked:
    """Mark an item as relevant to what a search asks or not, or take its mark away (None).

    The item may be any of the collection, whether the search found it or not.

    Raises:
        NotFound: no such search, or its collection has no such item.
        Conflict: the item is deleted, or the question has too many marks.
    """
    asked = asked_by(session, actor, search_id)
    state = session.scalar(sa.select(Item.state).where(Item.id == item_id, Item.collection_id == asked.collection_id))
    if state is None:
        raise NotFound("The collection has no such item.")
    # in this order (retllm.db.locks), before the mark's row
    lock_collection(session, asked.collection_id)
    search = sa.select(Search.id).where(Search.id == search_id).with_for_update(read=True, key_share=True)
    if session.scalar(search) is None:
        raise NotFound("There is no such job.")
    if relevant is None:
        session.execute(sa.delete(Judgment).where(_of(asked), Judgment.item_id == item_id))
        return asked
    if state is not ItemState.READY:
        raise Conflict("The item is deleted; it can't be marked any more.")
    _require_room(session, asked, item_id)
    made = insert(Judgment).values(
        collection_id=asked.collection_id,
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
    return sa.and_(Judgment.collection_id == asked.collection_id, Judgment.question == asked.question)


def _require_room(session: Session, asked: Asked, item_id: UUID) -> None:
    others = sa.select(sa.func.count()).select_from(Judgment).where(_of(asked), Judgment.item_id != item_id)
    count = session.scalar(others) or 0
    if count >= MAX_MARKS:
        raise Conflict(f"This question has {MAX_MARKS:,} marks, which is as many as are kept. Take some away first.")


def marks_of(session: Session, asked: Asked) -> list[Mark]:
    """The marks of a question: the relevant items first, each group with its newest mark first."""
    query = (
        sa.select(
            Judgment.item_id,
            Judgment.relevant,
            User.name,
            Judgment.updated_at,
            Item.name,
            Item.kind,
            Item.text,
            Item.thumbnail_key.is_not(None),
            Item.state != ItemState.READY,
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


def find_items(session: Session, asked: Asked, wanted: str) -> list[Item]:
    """Items of the question's collection by key, by words of their text, or by a part of their name; at most a dozen.

    Raises:
        InvalidInput: nothing to look for was given.
    """
    wanted = wanted.replace("\0", "").strip()
    if not wanted:
        raise InvalidInput("Give a name, some words of the text, or an item's id.", field="find")
    inside = sa.select(Item).where(Item.collection_id == asked.collection_id, Item.state == ItemState.READY)
    key = _key(wanted)
    if key is not None:
        return list(session.scalars(inside.where(Item.id == key)))
    # written out, so that the server knows the words when it plans
    words = sa.func.websearch_to_tsquery(sa.literal_column("'english'::regconfig"), wanted)
    # a case hides from the planner how rare the name may be, so that it walks the collection and not the whole table
    named = sa.case((Item.name.icontains(wanted, autoescape=True), sa.true()), else_=sa.false())
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
