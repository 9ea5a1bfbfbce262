"""The choices on the search page: the collections to search, and the latest queries of an account."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.counts import CollectionCount
from retllm.db.enums import JobKind
from retllm.db.jobs import Job
from retllm.db.many import one_of
from retllm.db.searches import Search
from retllm.db.tables import Collection, User
from retllm.history.job_views import name_of_collections
from retllm.identity.access import visible_collections, visible_jobs
from retllm.identity.actor import Actor
from retllm.indexing.counts import items_in

# collections in the list; others can be searched from their own page
_OFFERED = 200
# newest searches among which to find distinct queries
_SCANNED = 60
_RECENT = 8


@dataclass(frozen=True)
class Offer:
    """A collection that can be searched, with the number of its items."""

    id: UUID
    name: str
    owner: str
    items: int


@dataclass(frozen=True)
class RecentQuestion:
    """An earlier query, with the latest search for it."""

    search_id: UUID
    collection_id: UUID | None
    """None for a search of several"""
    collection_name: str
    text: str | None
    has_picture: bool
    asked_at: datetime


def offered(session: Session, actor: Actor, chosen: Sequence[UUID] = ()) -> list[Offer]:
    """Return the newest collections that ``actor`` may search, by name, including those ``chosen`` that they may."""
    query = (
        sa.select(Collection.id, Collection.name, User.name)
        .join(User, User.id == Collection.owner_id)
        .where(visible_collections(actor))
    )
    order = (sa.not_(one_of(Collection.id, chosen)), Collection.id.desc()) if chosen else (Collection.id.desc(),)
    rows = session.execute(query.order_by(*order).limit(_OFFERED)).all()
    counted = items_in(CollectionCount.collection_id.in_([row.id for row in rows]))
    key = CollectionCount.collection_id
    items = {row.collection_id: row[0] for row in session.execute(counted.add_columns(key).group_by(key))}
    found = [Offer(*row, items.get(row.id, 0)) for row in rows]
    return sorted(found, key=lambda offer: (offer.name.casefold(), offer.owner, offer.id))


def recent(session: Session, actor: Actor) -> list[RecentQuestion]:
    """Return the latest distinct queries of ``actor`` per collection, or of several, newest first."""
    rows = session.execute(
        sa.select(
            Search.question,
            Job.id,
            Job.collection_id,
            name_of_collections(),
            Search.query_text,
            Search.query_picture_key.is_not(None),
            Job.created_at,
        )
        .join(Search, Search.id == Job.id)
        .outerjoin(Collection, Collection.id == Job.collection_id)
        .where(Job.user_id == actor.id, Job.kind == JobKind.SEARCH, visible_jobs(actor))
        .order_by(Job.id.desc())
        .limit(_SCANNED)
    )
    found: dict[tuple[UUID | None, str], RecentQuestion] = {}
    for question, job_id, collection_id, name, text, has_picture, at in rows:
        found.setdefault((collection_id, question), RecentQuestion(job_id, collection_id, name, text, has_picture, at))
    return list(found.values())[:_RECENT]


def first_choice(offers: Sequence[Offer], questions: Sequence[RecentQuestion]) -> UUID | None:
    """Return the collection to preselect: that of the latest query, else the newest that is not empty."""
    keys = {offer.id for offer in offers}
    asked = next((question.collection_id for question in questions if question.collection_id in keys), None)
    filled = max((offer.id for offer in offers if offer.items), default=None)
    return asked or filled or max(keys, default=None)
