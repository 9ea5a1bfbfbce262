"""The coarse stage of a search: its sources, and the pool of candidates that they give together.

A search that uses only the main embedder has null in ``searches.coarse`` and its k nearest items as candidates. With
more sources, the column holds the request (``captions``, ``embedders``, ``depth``, ``rrf_k``) and, after the stage,
the results: ``sources``, one :class:`retllm.search.results.SourceView` each.

A search of several collections has the same sources. Each asks those that it can: an embedder the collections that are
indexed with it, whose vectors are comparable. Ranks of different embedders are fused, since their distances are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from retllm.db.enums import ItemKind, Positions
from retllm.db.jobs import Job
from retllm.db.searches import Candidate, Search, SearchCollection
from retllm.db.tables import Collection, EmbeddingModel
from retllm.errors import Conflict, InvalidInput
from retllm.filters import Field, bounded, condition, fields_of, parse
from retllm.indexing.indexed import Among, current_model, filled_among, indexed_among, is_indexed
from retllm.search.captions import by_captions_of_all, count_captions
from retllm.search.neighbours import nearest_of_all, similarities
from retllm.search.results import SourceRank, SourceView
from retllm.search.rrf import RRF_K, reciprocal_rank_fusion
from retllm.search.settings import SearchSettings

CAPTIONS = "captions"
"""Name of the captions as a source; it can't collide, since the name of an embedder contains a slash or a colon."""

# an item that ranks low in every source can still rank first after the fusion, so each source returns more than k
_MIN_DEPTH = 100
_DEPTH_PER_CANDIDATE = 2
# other searches wait for the worker meanwhile
_FILTER_SECONDS = 60
_NOT_INDEXED = "The collection is not indexed with it yet: submit an index job."
_NO_TEXT = "The query has no text to look for in captions."


@dataclass(frozen=True)
class QueryVector:
    """The query embedded by one embedder: the embedder's row and an L2-normalised vector of shape (dimension,)."""

    model: EmbeddingModel
    vector: NDArray[np.float32]


@dataclass
class _SourceAnswer:
    """The items of one source, best first, each with its similarity or score."""

    source: SourceView
    ranks: dict[UUID, SourceRank]


def plan(settings: SearchSettings, embedder: str, *, has_text: bool) -> dict[str, Any] | None:
    """Return the value of ``searches.coarse`` for a new search; ``embedder`` is the main embedder of its collection.

    Raises:
        InvalidInput: there is no source, or captions are the only source and the query has no text.
    """
    captions, names = settings.coarse.captions, settings.coarse.embedders
    if not names and not captions:
        raise InvalidInput(
            "The search has no source of candidates: name an embedder or enable captions.", field="coarse"
        )
    if not names and not has_text:
        raise InvalidInput(f"Captions alone can't answer this search. {_NO_TEXT}", field="coarse")
    if not captions and names == [embedder]:
        return None
    depth = max(_MIN_DEPTH, _DEPTH_PER_CANDIDATE * settings.k)
    return {"captions": captions, "embedders": names, "depth": depth, "rrf_k": RRF_K}


def collections_of(session: Session, job: Job) -> list[Collection]:
    """Return the collections of a search that are not deleted, in the order of their keys."""
    query = sa.select(Collection).where(Collection.id == job.collection_id)
    if job.collection_id is None:
        theirs = sa.select(SearchCollection.collection_id).where(SearchCollection.search_id == job.id)
        query = sa.select(Collection).where(Collection.id.in_(theirs))
    return list(session.scalars(query.order_by(Collection.id).execution_options(populate_existing=True)))


def searchable(session: Session, among: Among, search: Search) -> set[UUID]:
    """Return those collections that a source of the search can answer: indexed with an embedder, or with captions."""
    names = embedders_of(search)
    if not names:
        return filled_among(session, among)
    return indexed_among(session, among, *(current_model(session, name) for name in names))


def require_indexed(session: Session, collection_id: UUID, search: Search) -> None:
    """Reject a search that none of its embedders can answer.

    Raises:
        Conflict: no item of the collection has a vector of any of them.
    """
    names = embedders_of(search)
    if names and not any(is_indexed(session, collection_id, current_model(session, name)) for name in names):
        raise Conflict(
            f"The collection is not indexed with {' or '.join(names)} yet: "
            "submit an index job, or wait for the running one."
        )


def may_filter(collection: Collection, text: str | None) -> bool:
    """Return whether searches of a collection may have this filter.

    All who see the collection see the results of a search, which would tell them which items were made where.
    """
    return collection.positions is Positions.EVERYONE or Field("position") not in fields_of(parse(text or ""))


def require_filter(collections: Iterable[Collection], search: Search) -> None:
    """Reject a search whose results would tell what not all who see them may know.

    Raises:
        InvalidInput: it does.
    """
    for collection in collections:
        if not may_filter(collection, search.filter):
            raise InvalidInput(
                f"Not all who see the collection “{collection.name}” may see where its items were made, but all see "
                "the results of a search: leave position out of the filter. Editors can filter the list of items by "
                "it.",
                field="filter",
            )


def embedders_of(search: Search) -> list[str]:
    """Return the embedders that a search uses as sources; none if captions are its only source."""
    return [search.embedder] if search.coarse is None else list(search.coarse["embedders"])


def has_one_source(search: Search) -> bool:
    """Return whether the search has exactly one source, and so no fallback."""
    with_captions = search.coarse is not None and search.coarse["captions"] and search.query_text is not None
    return len(embedders_of(search)) + int(with_captions) == 1


def unindexed(session: Session, search: Search) -> dict[str, str]:
    """Return the embedders of the search that none of its collections is indexed with, each with a message."""
    collections = [collection.id for collection in collections_of(session, session.get_one(Job, search.id))]
    return {
        name: _NOT_INDEXED
        for name in embedders_of(search)
        if not indexed_among(session, collections, current_model(session, name))
    }


def store_pool(
    session: Session, job: Job, questions: Mapping[str, QueryVector], unused: Mapping[str, str], token: UUID
) -> None:
    """Store the candidates of the search and the results of each source.

    Args:
        questions: query vectors of the search's main embedder and of every other usable embedder, by name.
        unused: messages for the unusable embedders, by name.
        token: token of the attempt.

    Raises:
        Conflict: no source can answer; the message names the reason for each.
        InvalidInput: comparing the items with the filter takes too long, or the collection does not allow it any more.
    """
    search = session.get_one(Search, job.id)
    own, among = questions[search.embedder], collections_of(session, job)
    require_filter(among, search)
    with bounded(session, _FILTER_SECONDS) if search.filter else nullcontext():
        if search.coarse is None:
            pool = _nearest(session, among, search, own)
        else:
            pool = _fused(session, among, search, questions, unused)
    for candidate in pool:
        candidate.token = token
    # each row locks its item; sort to keep the global lock order (retllm.db.locks)
    pool.sort(key=lambda candidate: candidate.item_id)
    session.add_all(pool)
    search.model_id = own.model.id
    search.coarse_at = sa.func.clock_timestamp()


def _nearest(session: Session, among: Sequence[Collection], search: Search, own: QueryVector) -> list[Candidate]:
    keys = [collection.id for collection in among]
    pool, searched, exact = nearest_of_all(
        session, own.model, keys, own.vector, search.k, _kinds(search), _where(search)
    )
    if not pool and not indexed_among(session, keys, own.model):
        raise Conflict(f"No item in the collection is indexed with {search.embedder}: submit an index job first.")
    search.searched_items, search.exact = searched, exact
    return [
        Candidate(search_id=search.id, item_id=near.item_id, coarse_rank=near.rank, similarity=near.similarity)
        for near in pool
    ]


def _fused(
    session: Session,
    among: Sequence[Collection],
    search: Search,
    questions: Mapping[str, QueryVector],
    unused: Mapping[str, str],
) -> list[Candidate]:
    plan: dict[str, Any] = dict(search.coarse or {})
    answers = [
        _by_embedder(session, among, search, name, questions.get(name), unused.get(name)) for name in plan["embedders"]
    ]
    if plan["captions"]:
        answers.append(_by_captions(session, among, search))
    used = {answer.source.name: answer.ranks for answer in answers if answer.source.unused is None}
    if not used:
        reasons = [f"{answer.source.name}: {answer.source.unused}" for answer in answers]
        raise Conflict(f"No source of candidates can answer this search. {' '.join(reasons)}")
    ranking = reciprocal_rank_fusion({name: list(ranks) for name, ranks in used.items()}, plan["rrf_k"])
    fused = ranking[: search.k]
    own = questions[search.embedder]
    cosines = similarities(session, own.model, own.vector, [entry.key for entry in fused])
    search.coarse = plan | {"sources": [answer.source.model_dump(mode="json") for answer in answers]}
    # sources that cover different items can together return more items than any one of them has searched
    search.exact = all(answer.source.exact is not False for answer in answers)
    search.searched_items = max(len(ranking), *(answer.source.searched or 0 for answer in answers))
    return [
        Candidate(
            search_id=search.id,
            item_id=entry.key,
            coarse_rank=rank,
            similarity=cosines.get(entry.key),
            sources={name: used[name][entry.key].model_dump(exclude_none=True) for name in entry.ranks},
        )
        for rank, entry in enumerate(fused, start=1)
    ]


def _by_embedder(
    session: Session,
    among: Sequence[Collection],
    search: Search,
    name: str,
    question: QueryVector | None,
    unused: str | None,
) -> _SourceAnswer:
    source = SourceView(name=name, kind="embedder", revision=None, searched=None, found=None, unused=unused)
    if question is None:
        return _SourceAnswer(source, {})
    source.revision = question.model.revision
    indexed = indexed_among(session, [collection.id for collection in among], question.model)
    if not indexed:
        # or only with an older revision
        source.unused = _NOT_INDEXED
        return _SourceAnswer(source, {})
    depth = (search.coarse or {})["depth"]
    pool, searched, exact = nearest_of_all(
        session, question.model, sorted(indexed), question.vector, depth, _kinds(search), _where(search)
    )
    source.searched, source.exact, source.found, source.unused = searched, exact, len(pool), None
    return _SourceAnswer(
        source, {near.item_id: SourceRank(rank=near.rank, similarity=near.similarity) for near in pool}
    )


def _by_captions(session: Session, among: Sequence[Collection], search: Search) -> _SourceAnswer:
    source = SourceView(name=CAPTIONS, kind="captions", revision=None, searched=None, found=None, unused=None)
    if search.query_text is None:
        source.unused = _NO_TEXT
        return _SourceAnswer(source, {})
    kinds, where = _kinds(search), _where(search)
    source.revision = ", ".join(sorted({collection.language for collection in among}))
    matches = by_captions_of_all(session, among, search.query_text, (search.coarse or {})["depth"], kinds, where)
    searched = sum(count_captions(session, collection.id, kinds, where) for collection in among)
    # a match may have been added after the count
    source.searched, source.found = max(searched, len(matches)), len(matches)
    return _SourceAnswer(source, {match.item_id: SourceRank(rank=match.rank, score=match.score) for match in matches})


def _kinds(search: Search) -> list[ItemKind]:
    return [ItemKind(kind) for kind in search.item_kinds]


def _where(search: Search) -> list[sa.ColumnElement[bool]]:
    """Return the conditions of the filter of a search."""
    found = parse(search.filter or "")
    return [condition(found)] if found else []


def sources_of(search: Search, revision: str | None, candidates: int) -> list[SourceView]:
    """Return the sources of a search for display.

    Args:
        revision: revision of its main embedder, if known.
        candidates: current number of candidates.
    """
    finished = search.coarse_at is not None
    if search.coarse is None:
        found = candidates if finished else None
        return [
            SourceView(
                name=search.embedder,
                kind="embedder",
                revision=revision,
                searched=search.searched_items,
                exact=search.exact,
                found=found,
                unused=None,
            )
        ]
    if finished:
        return [SourceView.model_validate(source) for source in search.coarse["sources"]]
    empty: dict[str, Any] = {"revision": None, "searched": None, "found": None, "unused": None}
    named = [SourceView(name=name, kind="embedder", **empty) for name in search.coarse["embedders"]]
    return named + ([SourceView(name=CAPTIONS, kind="captions", **empty)] if search.coarse["captions"] else [])
