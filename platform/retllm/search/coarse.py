"""The coarse stage of a search: its sources, and the pool of candidates that they give together.

A search that uses only the main embedder has null in ``searches.coarse`` and its k nearest items as candidates. With
more sources, the column holds the request (``captions``, ``embedders``, ``depth``, ``rrf_k``) and, after the stage,
the results: ``sources``, one :class:`retllm.search.results.SourceView` each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from retllm.db.enums import ItemKind
from retllm.db.searches import Candidate, Search
from retllm.db.tables import Collection, EmbeddingModel, Job
from retllm.errors import Conflict, InvalidInput
from retllm.indexing.indexed import current_model, is_indexed
from retllm.search.captions import by_captions, count_captions
from retllm.search.neighbours import nearest, similarities
from retllm.search.results import SourceRank, SourceView
from retllm.search.rrf import RRF_K, reciprocal_rank_fusion
from retllm.search.settings import SearchSettings

CAPTIONS = "captions"
"""Name of the captions as a source; it can't collide, since the name of an embedder contains a slash or a colon."""

# an item that ranks low in every source can still rank first after the fusion, so each source returns more than k
_MIN_DEPTH = 100
_DEPTH_PER_CANDIDATE = 2
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


def embedders_of(search: Search) -> list[str]:
    """Return the embedders that a search uses as sources; none if captions are its only source."""
    return [search.embedder] if search.coarse is None else list(search.coarse["embedders"])


def has_one_source(search: Search) -> bool:
    """Return whether the search has exactly one source, and so no fallback."""
    with_captions = search.coarse is not None and search.coarse["captions"] and search.query_text is not None
    return len(embedders_of(search)) + int(with_captions) == 1


def unindexed(session: Session, search: Search) -> dict[str, str]:
    """Return the embedders of the search that the collection is not indexed with, each with a message."""
    collection_id = session.get_one(Job, search.id).collection_id
    return {
        name: _NOT_INDEXED
        for name in embedders_of(search)
        if not is_indexed(session, collection_id, current_model(session, name))
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
    """
    search = session.get_one(Search, job.id)
    own = questions[search.embedder]
    if search.coarse is None:
        pool = _nearest(session, job, search, own)
    else:
        pool = _fused(session, job, search, questions, unused)
    for candidate in pool:
        candidate.token = token
    # each row locks its item; sort to keep the global lock order (retllm.db.locks)
    pool.sort(key=lambda candidate: candidate.item_id)
    session.add_all(pool)
    search.model_id = own.model.id
    search.coarse_at = sa.func.clock_timestamp()


def _nearest(session: Session, job: Job, search: Search, own: QueryVector) -> list[Candidate]:
    pool, searched, exact = nearest(session, own.model, job.collection_id, own.vector, search.k, _kinds(search))
    if not pool and not is_indexed(session, job.collection_id, own.model):
        raise Conflict(f"No item in the collection is indexed with {search.embedder}: submit an index job first.")
    search.searched_items, search.exact = searched, exact
    return [
        Candidate(search_id=job.id, item_id=near.item_id, coarse_rank=near.rank, similarity=near.similarity)
        for near in pool
    ]


def _fused(
    session: Session, job: Job, search: Search, questions: Mapping[str, QueryVector], unused: Mapping[str, str]
) -> list[Candidate]:
    plan: dict[str, Any] = dict(search.coarse or {})
    answers = [
        _by_embedder(session, job, search, name, questions.get(name), unused.get(name)) for name in plan["embedders"]
    ]
    if plan["captions"]:
        answers.append(_by_captions(session, job, search))
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
            search_id=job.id,
            item_id=entry.key,
            coarse_rank=rank,
            similarity=cosines.get(entry.key),
            sources={name: used[name][entry.key].model_dump(exclude_none=True) for name in entry.ranks},
        )
        for rank, entry in enumerate(fused, start=1)
    ]


def _by_embedder(
    session: Session, job: Job, search: Search, name: str, question: QueryVector | None, unused: str | None
) -> _SourceAnswer:
    source = SourceView(name=name, kind="embedder", revision=None, searched=None, found=None, unused=unused)
    if question is None:
        return _SourceAnswer(source, {})
    source.revision = question.model.revision
    if not is_indexed(session, job.collection_id, question.model):
        # or only with an older revision
        source.unused = _NOT_INDEXED
        return _SourceAnswer(source, {})
    depth = (search.coarse or {})["depth"]
    pool, searched, exact = nearest(session, question.model, job.collection_id, question.vector, depth, _kinds(search))
    source.searched, source.exact, source.found, source.unused = searched, exact, len(pool), None
    return _SourceAnswer(
        source, {near.item_id: SourceRank(rank=near.rank, similarity=near.similarity) for near in pool}
    )


def _by_captions(session: Session, job: Job, search: Search) -> _SourceAnswer:
    source = SourceView(name=CAPTIONS, kind="captions", revision=None, searched=None, found=None, unused=None)
    if search.query_text is None:
        source.unused = _NO_TEXT
        return _SourceAnswer(source, {})
    kinds = _kinds(search)
    collection = session.get_one(Collection, job.collection_id, populate_existing=True)
    source.revision = collection.language
    matches = by_captions(session, collection, search.query_text, (search.coarse or {})["depth"], kinds)
    # a match may have been added after the count
    source.searched, source.found = max(count_captions(session, job.collection_id, kinds), len(matches)), len(matches)
    return _SourceAnswer(source, {match.item_id: SourceRank(rank=match.rank, score=match.score) for match in matches})


def _kinds(search: Search) -> list[ItemKind]:
    return [ItemKind(kind) for kind in search.item_kinds]


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
