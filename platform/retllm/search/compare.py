"""Compare several searches: the rank of each item, the settings that differ, and how far the orders agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import DecidedBy, ItemState, JobKind, JobState
from retllm.db.jobs import Job
from retllm.db.reviews import Judgment
from retllm.db.searches import Candidate, Search
from retllm.db.tables import Collection, EmbeddingModel, Item, User
from retllm.errors import InvalidInput, NotFound
from retllm.history.job_views import name_of_collections
from retllm.identity.access import collections_of, visible_jobs
from retllm.identity.actor import Actor
from retllm.search import ranking
from retllm.search.agreement import Agreement, agreement
from retllm.search.settings import SearchSettings

MIN_COMPARED, MAX_COMPARED = 2, 6
"""Bounds of the number of searches in a comparison."""


@dataclass(frozen=True)
class ComparedRank:
    """The rank of an item in one search; ``change`` is the number of places gained over the first search."""

    rank: int
    coarse_rank: int
    score: float | None
    entropy: float | None
    """told if it decided between equal scores"""
    change: int | None
    error: str | None


@dataclass(frozen=True)
class ComparedItem:
    """An item with its place in each search and its mark for the question of each; None where there is none."""

    id: UUID
    collection_name: str
    name: str
    text: str | None
    has_thumbnail: bool
    state: ItemState
    places: tuple[ComparedRank | None, ...]
    marks: tuple[bool | None, ...]


@dataclass(frozen=True)
class Side:
    """One of the compared searches; ``agreement`` is with the first one, None for the first one itself."""

    id: UUID
    state: JobState
    cancel_requested: bool
    created_at: datetime
    user_name: str
    collection_id: UUID | None
    """None for a search of several"""
    collections: frozenset[UUID]
    """those that this account may see"""
    collection_name: str
    text: str | None
    has_picture: bool
    question: str
    provisional: bool
    no_match: bool | None
    candidates: int
    settings: dict[str, Any]
    agreement: Agreement | None


@dataclass(frozen=True)
class Comparison:
    """Compared searches, with the items that rank within ``top`` in any of them, ordered by their best ranks."""

    sides: list[Side]
    items: list[ComparedItem]
    further: int
    """number of items that rank below ``top`` in all of them"""

    @property
    def same_collections(self) -> bool:
        """Whether all search the same collections."""
        return len({side.collections for side in self.sides}) == 1

    @property
    def share_a_collection(self) -> bool:
        """Whether there is a collection that all search."""
        return bool(frozenset.intersection(*(side.collections for side in self.sides)))

    @property
    def same_question(self) -> bool:
        """Whether all have the same query."""
        return len({side.question for side in self.sides}) == 1

    def settings(self, *, different: bool) -> dict[str, list[Any]]:
        """Return the settings that differ between the searches, or those that don't: a value per search, by name."""
        names = self.sides[0].settings
        rows = {name: [side.settings[name] for side in self.sides] for name in names}
        return {name: row for name, row in rows.items() if any(value != row[0] for value in row) == different}


@dataclass(frozen=True)
class _Found:
    """A search with the names it refers to, and the places of its items in rank order."""

    job: Job
    search: Search
    collections: Mapping[UUID, str]
    collection: str
    user: str
    revision: str | None
    places: dict[UUID, ComparedRank]


def compare(session: Session, actor: Actor, search_ids: Sequence[UUID], *, top: int = 20) -> Comparison:
    """Compare the searches in the order of ``search_ids``. The number of database queries depends only on their number.

    Items of collections that ``actor`` may not see are left out.

    Raises:
        NotFound: a search does not exist or this account may not see it.
        InvalidInput: there are too few or too many, or one is not a search.
    """
    if not MIN_COMPARED <= len(search_ids) <= MAX_COMPARED:
        raise InvalidInput(
            f"{MIN_COMPARED} to {MAX_COMPARED} searches can be compared; you chose {len(search_ids)}.", field="of"
        )
    found = _found(session, actor, search_ids)
    first = [*found[0].places]
    sides = [_side(entry, agreement(first, [*entry.places]) if number else None) for number, entry in enumerate(found)]
    best = _best(found)
    shown = [key for key in best if min(entry.places[key].rank for entry in found if key in entry.places) <= top]
    return Comparison(sides, _items(session, found, shown), len(best) - len(shown))


def _found(session: Session, actor: Actor, search_ids: Sequence[UUID]) -> list[_Found]:
    query = (
        sa.select(Job, Search, name_of_collections(), User.name, EmbeddingModel.revision)
        .outerjoin(Collection, Collection.id == Job.collection_id)
        .join(User, User.id == Job.user_id)
        .outerjoin(Search, Search.id == Job.id)
        .outerjoin(EmbeddingModel, EmbeddingModel.id == Search.model_id)
        .where(Job.id.in_(search_ids), visible_jobs(actor))
    )
    rows = {row[0].id: row for row in session.execute(query)}
    if len(rows) < len(search_ids):
        raise NotFound("There is no such search, or it was deleted.")
    if any(row[1] is None for row in rows.values()):
        raise InvalidInput("Only searches can be compared, and one of these jobs is an index job.", field="of")
    found: list[_Found] = []
    for key in search_ids:
        job, search, collection, name, revision = rows[key]
        theirs = {job.collection_id: collection} if job.collection_id else collections_of(session, actor, job)
        places = _places(session, search, theirs, found[0].places if found else None)
        found.append(_Found(job, search, theirs, collection, name, revision, places))
    return found


def _places(
    session: Session, search: Search, collections: Mapping[UUID, str], first: Mapping[UUID, ComparedRank] | None
) -> dict[UUID, ComparedRank]:
    """Return the place of each candidate of these collections in the final order, or in the provisional order."""
    rows = ranking.rows_of(session, search.id)
    if search.final_at is None:
        order = ranking.order_of(rows, search)
        ranks = {one.key: one.rank for one in order}
        by_entropy = {one.key for one in order if one.decided_by == "entropy"}
    else:
        ranks = {row.candidate.item_id: row.candidate.final_rank or len(rows) for row in rows}
        by_entropy = {row.candidate.item_id for row in rows if row.candidate.decided_by is DecidedBy.ENTROPY}
    places = {}
    seen = None if search.collections is None else _keys_in(session, search.id, collections)
    for row in sorted(rows, key=lambda row: ranks[row.candidate.item_id]):
        if seen is not None and row.candidate.item_id not in seen:
            continue
        key, rank = row.candidate.item_id, ranks[row.candidate.item_id]
        in_first = first.get(key) if first is not None else None
        places[key] = ComparedRank(
            rank=rank,
            coarse_rank=row.candidate.coarse_rank,
            score=row.score.score if row.score else None,
            entropy=row.score.entropy if row.score and key in by_entropy else None,
            change=in_first.rank - rank if in_first else None,
            error=row.candidate.error or (row.score.error if row.score else None),
        )
    return places


def _keys_in(session: Session, search_id: UUID, collections: Mapping[UUID, str]) -> set[UUID]:
    query = sa.select(Item.id).join(Candidate, Candidate.item_id == Item.id)
    return set(session.scalars(query.where(Candidate.search_id == search_id, Item.collection_id.in_(collections))))


def _best(found: Sequence[_Found]) -> list[UUID]:
    """Return every item: those of the first search in its order, then the others by their best rank."""
    first = [*found[0].places]
    others = {key: place.rank for entry in reversed(found[1:]) for key, place in entry.places.items()}
    for entry in found[1:]:
        for key, place in entry.places.items():
            others[key] = min(others[key], place.rank)
    return first + sorted(others.keys() - found[0].places.keys(), key=lambda key: (others[key], key))


def _items(session: Session, found: Sequence[_Found], keys: Sequence[UUID]) -> list[ComparedItem]:
    items = {item.id: item for item in session.scalars(sa.select(Item).where(Item.id.in_(keys)))}
    marks = _marks(session, found, items)
    names = {key: name for entry in found for key, name in entry.collections.items()}
    return [
        ComparedItem(
            id=key,
            collection_name=names[items[key].collection_id],
            name=items[key].name,
            text=items[key].shown_text,
            has_thumbnail=items[key].shows_picture,
            state=items[key].state,
            places=tuple(entry.places.get(key) for entry in found),
            marks=tuple(
                marks.get((items[key].collection_id, entry.search.question, key))
                if items[key].collection_id in entry.collections
                else None
                for entry in found
            ),
        )
        for key in keys
        if key in items
    ]


def _marks(session: Session, found: Sequence[_Found], items: Mapping[UUID, Item]) -> dict[tuple[UUID, str, UUID], bool]:
    theirs = {item.collection_id for item in items.values()}
    questions = {(key, entry.search.question) for entry in found for key in theirs.intersection(entry.collections)}
    if not questions:
        return {}
    query = sa.select(Judgment.collection_id, Judgment.question, Judgment.item_id, Judgment.relevant).where(
        sa.tuple_(Judgment.collection_id, Judgment.question).in_(questions), Judgment.item_id.in_(items)
    )
    return {(collection, question, item): relevant for collection, question, item, relevant in session.execute(query)}


def _side(found: _Found, agreed: Agreement | None) -> Side:
    job, search = found.job, found.search
    return Side(
        id=job.id,
        state=job.state,
        cancel_requested=job.cancel_requested,
        created_at=job.created_at,
        user_name=found.user,
        collection_id=job.collection_id,
        collections=frozenset(found.collections),
        collection_name=found.collection,
        text=search.query_text,
        has_picture=search.query_picture_key is not None,
        question=search.question,
        provisional=search.final_at is None,
        no_match=search.no_match,
        candidates=len(found.places),
        settings=_settings(found),
        agreement=agreed,
    )


def _settings(found: _Found) -> dict[str, Any]:
    search = found.search
    return {
        "collection": ", ".join(found.collections.values()),
        "text": search.query_text,
        # a prefix that identifies the picture
        "picture": (search.query_picture_sha256 or "")[:12] or None,
        **SearchSettings.of(search).flat(),
        "embedder_revision": found.revision,
        "scorer": search.scorer,
        "scorer_revision": search.scorer_revision,
        "scorer_version": search.scorer_version,
        "prompt_version": search.prompt_version,
        "match_threshold": search.match_threshold,
    }


@dataclass(frozen=True)
class Other:
    """A search offered for comparison."""

    id: UUID
    created_at: datetime
    state: JobState
    cancel_requested: bool
    user_name: str
    collection_name: str
    text: str | None
    has_picture: bool
    no_match: bool | None
    k: int
    mode: str
    trigger: str | None
    scorer: str


def same_question(session: Session, actor: Actor, search_id: UUID, *, limit: int = 30) -> list[Other]:
    """Return the newest other searches, in any collection, that have the same query."""
    question = sa.select(Search.question).where(Search.id == search_id).scalar_subquery()
    return _others(session, actor, [Search.question == question, Search.id != search_id], limit)


def same_collection(session: Session, actor: Actor, search_id: UUID, *, limit: int = 10) -> list[Other]:
    """Return the newest other searches of the collection that have a different query."""
    question = sa.select(Search.question).where(Search.id == search_id).scalar_subquery()
    # null for a search of several, which no other one is in the same collection as
    collection = sa.select(Job.collection_id).where(Job.id == search_id).scalar_subquery()
    conditions = [Job.collection_id == collection, Job.kind == JobKind.SEARCH, Search.question != question]
    return _others(session, actor, conditions, limit)


def _others(session: Session, actor: Actor, conditions: Sequence[sa.ColumnElement[bool]], limit: int) -> list[Other]:
    columns: dict[str, Any] = {
        "id": Job.id,
        "created_at": Job.created_at,
        "state": Job.state,
        "cancel_requested": Job.cancel_requested,
        "user_name": User.name,
        "collection_name": name_of_collections(),
        "text": Search.query_text,
        "has_picture": Search.query_picture_key.is_not(None),
        "no_match": Search.no_match,
        "k": Search.k,
        "mode": Search.mode,
        "trigger": Search.injection["trigger"].astext,
        "scorer": Search.scorer,
    }
    query = (
        sa.select(*(column.label(name) for name, column in columns.items()))
        .select_from(Job)
        .join(Search, Search.id == Job.id)
        .join(User, User.id == Job.user_id)
        .outerjoin(Collection, Collection.id == Job.collection_id)
        .where(*conditions, visible_jobs(actor))
        .order_by(Job.id.desc())
        .limit(limit)
    )
    return [Other(**row) for row in session.execute(query).mappings()]
