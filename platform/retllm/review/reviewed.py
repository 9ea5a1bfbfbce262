"""Searches of reviewed queries, with the ranks of their relevant items; one SQL query for any number of searches.

Marks of deleted items do not count, since no later search can find these items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute, Session

from retllm.db.enums import ItemState
from retllm.db.jobs import Job
from retllm.db.reviews import Judgment
from retllm.db.searches import Candidate, Search
from retllm.db.tables import Collection, Item
from retllm.identity.access import visible_collections
from retllm.identity.actor import Actor
from retllm.review.measures import Measures, RankPair, measure

# of one collection: maximum number of queries, most recently reviewed first; marks read for each of them
QUESTIONS = 2000
_MARKS = 10
# of one query: maximum number of searches, newest first
SEARCHES = 10
# characters of a query's text in lists
_TEXT = 300


@dataclass(frozen=True)
class Reviewed:
    """A search with a final order and a query with marks, and its measures (without those of the whole pool)."""

    search_id: UUID
    collection_id: UUID
    question: str
    reviewed_at: datetime
    text: str | None
    has_picture: bool
    final_at: datetime
    mode: str
    k: int
    injection: Mapping[str, Any]
    fusion_weight: float
    waves: bool
    embedder: str
    scorer: str
    scorer_version: str | None
    measures: Measures

    @property
    def trigger(self) -> str:
        """Return the trigger of re-injection."""
        return str(self.injection.get("trigger", "off"))


def reviewed_collections(session: Session, actor: Actor, *, after: UUID | None, limit: int) -> list[Collection]:
    """Return visible collections with marks, newest first; ``after`` is the last key of the page before."""
    query = sa.select(Collection).where(visible_collections(actor), _has_marks()).order_by(Collection.id.desc())
    if after is not None:
        query = query.where(Collection.id < after)
    return list(session.scalars(query.limit(limit)))


def _has_marks() -> sa.ColumnElement[bool]:
    return sa.exists().where(Judgment.collection_id == Collection.id)


def reviewed(
    session: Session, collection_ids: Sequence[UUID], *, questions: int = QUESTIONS, searches: int = SEARCHES
) -> list[Reviewed]:
    """Return the newest searches with a final order of the most recently reviewed queries.

    Args:
        session: database session.
        collection_ids: collections to read.
        questions: maximum number of queries for each collection.
        searches: maximum number of searches for each query.

    Returns:
        Searches by collection, then query (most recently reviewed first), then search (newest first).
    """
    if not collection_ids:
        return []
    asked = _questions(questions)
    found = _searches(asked, searches)
    places = _places(Collection.id, asked.c.question, found.c.search_id)
    query = (
        sa.select(Collection.id.label("collection_id"), asked, found, places)
        .select_from(Collection)
        .join(asked, sa.true())
        .join(found, sa.true())
        .join(places, sa.true())
        .where(Collection.id.in_(collection_ids))
        .order_by(Collection.id, asked.c.reviewed_at.desc(), asked.c.question, found.c.search_id.desc())
    )
    return [_reviewed(dict(row)) for row in session.execute(query).mappings()]


def _questions(limit: int) -> sa.FromClause:
    newest = (
        sa.select(Judgment.question, Judgment.updated_at)
        .where(Judgment.collection_id == Collection.id)
        .correlate(Collection)
        .order_by(Judgment.updated_at.desc())
        .limit(limit * _MARKS)
        .lateral("newest")
    )
    last = sa.func.max(newest.c.updated_at)
    return (
        sa.select(newest.c.question, last.label("reviewed_at"))
        .group_by(newest.c.question)
        .order_by(last.desc(), newest.c.question)
        .limit(limit)
        .lateral("asked")
    )


def _searches(asked: sa.FromClause, limit: int) -> sa.FromClause:
    collection = sa.select(Job.collection_id).where(Job.id == Search.id).scalar_subquery()
    return (
        sa.select(
            Search.id.label("search_id"),
            sa.func.left(Search.query_text, _TEXT).label("text"),
            Search.query_picture_key.is_not(None).label("has_picture"),
            Search.final_at,
            Search.mode,
            Search.k,
            Search.injection,
            Search.fusion_weight,
            Search.adaptive.is_not(None).label("waves"),
            Search.embedder,
            Search.scorer,
            Search.scorer_version,
        )
        # looks up the job of each search by key, where a join could read all jobs of the collection for each query
        .where(Search.question == asked.c.question, collection == Collection.id, Search.final_at.is_not(None))
        .correlate(asked, Collection)
        .order_by(Search.id.desc())
        .limit(limit)
        .lateral("found")
    )


def measures_of(session: Session, search_ids: Sequence[UUID]) -> dict[UUID, Measures]:
    """Return the measures of those searches that have a final order, without those of the whole pool."""
    places = _places(Job.collection_id, Search.question, Search.id)
    query = (
        sa.select(Search.id, places)
        .select_from(Search)
        .join(Job, Job.id == Search.id)
        .join(places, sa.true())
        .where(Search.id.in_(search_ids), Search.final_at.is_not(None))
    )
    return {row.pop("id"): _measured(row) for row in map(dict, session.execute(query).mappings())}


Column = sa.ColumnElement[Any] | InstrumentedAttribute[Any]


def _places(collection_id: Column, question: Column, search_id: Column) -> sa.FromClause:
    """Count relevant items and marked candidates, and collect both ranks of each relevant candidate."""
    relevant = sa.and_(Judgment.relevant, Candidate.final_rank.is_not(None))
    # both arrays aggregate the same rows in the same order
    return (
        sa.select(
            sa.func.count().filter(Judgment.relevant).label("relevant"),
            sa.func.count(Candidate.item_id).label("marked"),
            sa.func.array_agg(Candidate.coarse_rank).filter(relevant).label("coarse_ranks"),
            sa.func.array_agg(Candidate.final_rank).filter(relevant).label("final_ranks"),
        )
        .select_from(Judgment)
        .join(Item, sa.and_(Item.id == Judgment.item_id, Item.state == ItemState.READY))
        .outerjoin(Candidate, sa.and_(Candidate.search_id == search_id, Candidate.item_id == Judgment.item_id))
        .where(Judgment.collection_id == collection_id, Judgment.question == question)
        .correlate_except(Judgment, Item, Candidate)
        .lateral("places")
    )


def _reviewed(row: dict[str, Any]) -> Reviewed:
    measured = _measured({name: row.pop(name) for name in ("relevant", "marked", "coarse_ranks", "final_ranks")})
    return Reviewed(**row, measures=measured)


def _measured(row: Mapping[str, Any]) -> Measures:
    pairs = zip(row["coarse_ranks"] or (), row["final_ranks"] or (), strict=True)
    places = [RankPair(coarse, final) for coarse, final in pairs]
    return measure(row["relevant"], places, pool=0, marked=row["marked"])
