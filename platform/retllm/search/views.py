"""Views of searches: every number is computed by a SELECT; no counters are kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import DecidedBy
from retllm.db.searches import Score, Search
from retllm.db.tables import EmbeddingModel, Item
from retllm.errors import NotFound
from retllm.history.job_views import job_view
from retllm.identity.access import collections_of, job_for, within_visible
from retllm.identity.actor import Actor
from retllm.media.came_in import archives_of
from retllm.search import coarse, ranking
from retllm.search.results import CandidateView, SearchedCollection, SearchView
from retllm.search.settings import SearchSettings
from retllm.settings import Settings


def search_view(session: Session, search_id: UUID, settings: Settings, *, actor: Actor) -> SearchView:
    """Return a search with its candidates in their final order, or in the provisional order.

    Candidates of collections that ``actor`` may not see are left out.

    Raises:
        NotFound: the search does not exist, or this account may not see it.
    """
    job = job_for(session, actor, search_id)
    search = session.scalar(sa.select(Search).where(Search.id == search_id).execution_options(populate_existing=True))
    if search is None:
        raise NotFound("This job is not a search.")
    model = session.get(EmbeddingModel, search.model_id) if search.model_id else None
    view = job_view(session, job)
    collections = collections_of(session, actor, job) if view.collection_id is None else {}
    if view.collection_id is not None:
        collections[view.collection_id] = view.collection_name
    candidates = _candidates(session, search, collections)
    return SearchView(
        id=search.id,
        job=view,
        collections=[SearchedCollection(id=key, name=name) for key, name in collections.items()],
        hidden_collections=(search.collections or 1) - len(collections),
        kind=search.kind,
        text=search.query_text,
        has_picture=search.query_picture_key is not None,
        embedder=search.embedder,
        embedder_revision=model.revision if model else None,
        scorer=search.scorer,
        scorer_revision=search.scorer_revision,
        scorer_version=search.scorer_version,
        prompt_version=search.prompt_version,
        injection=search.injection,
        adaptive=search.adaptive,
        sources=coarse.sources_of(search, model.revision if model else None, len(candidates)),
        searched_items=search.searched_items,
        exact=search.exact,
        match_threshold=search.match_threshold,
        no_match=search.no_match,
        provisional=search.final_at is None,
        coarse_at=search.coarse_at,
        final_at=search.final_at,
        notice=settings.notice_on((search.embedder, search.scorer)),
        candidates=candidates,
        **SearchSettings.of(search).plain(),
    )


def _candidates(session: Session, search: Search, collections: Mapping[UUID, str]) -> list[CandidateView]:
    rows = ranking.rows_of(session, search.id)
    by_item = {row.candidate.item_id: row for row in rows}
    fused = dict(zip(by_item, ranking.fused_of(rows, search), strict=True))
    items = {
        item.id: item
        for item in session.scalars(sa.select(Item).where(Item.id.in_(list(by_item))))
        if item.collection_id in collections
    }
    if search.collections is None and len(items) < len(by_item):
        # items are deleted with their whole collection only
        raise NotFound("There is no such search.")
    archives = archives_of(session, items)
    shown: list[tuple[int, UUID, DecidedBy | None]]
    if search.final_at is None:
        order = ranking.order_of(rows, search)
        shown = [(entry.rank, entry.key, DecidedBy(entry.decided_by)) for entry in order]
    else:
        shown = [(row.candidate.final_rank or 0, row.candidate.item_id, row.candidate.decided_by) for row in rows]
        shown.sort(key=lambda entry: entry[0])
    return [
        _candidate(
            rank,
            by_item[item_id],
            items[item_id],
            collections[items[item_id].collection_id],
            archives.get(item_id),
            decided if by_item[item_id].score else None,
            fused[item_id],
        )
        for rank, item_id, decided in shown
        if item_id in items
    ]


def _candidate(
    rank: int,
    row: ranking.Row,
    item: Item,
    collection: str,
    archive: str | None,
    decided: DecidedBy | None,
    fused: float | None,
) -> CandidateView:
    candidate, score = row.candidate, row.score or Score()
    return CandidateView(
        rank=rank,
        final_rank=candidate.final_rank,
        coarse_rank=candidate.coarse_rank,
        similarity=candidate.similarity,
        sources=candidate.sources,
        score=score.score,
        log_odds=score.log_odds,
        fused=fused,
        entropy=score.entropy,
        injected_layer=score.injected_layer,
        uncertainty=score.uncertainty,
        decided_by=decided,
        cached=bool(score.cached),
        has_trace=row.has_trace,
        error=candidate.error or score.error,
        remark=score.remark,
        item_id=item.id,
        collection_id=item.collection_id,
        collection_name=collection,
        name=item.name,
        archive=archive,
        kind=item.kind,
        item_state=item.state,
        text=item.shown_text,
        text_in_picture=item.shown_ocr_text,
        has_thumbnail=item.shows_picture,
    )


def trace_of(session: Session, search_id: UUID, item_id: UUID, *, actor: Actor) -> dict[str, Any]:
    """Return the trace of the model's layers for a candidate (``retllm.fine.Trace.as_json``).

    Raises:
        NotFound: this account can see no such search or candidate, or the search kept no trace.
    """
    job_for(session, actor, search_id)
    trace: dict[str, Any] | None = session.scalar(
        sa.select(Score.trace)
        .join(Search, sa.and_(Search.id == Score.search_id, Search.scorer_version == Score.scorer_version))
        .join(Item, sa.and_(Item.id == Score.item_id, within_visible(actor, Item.collection_id)))
        .where(Score.search_id == search_id, Score.item_id == item_id)
    )
    if trace is None:
        raise NotFound("This candidate has no trace: set `trace` in the search request.")
    return trace
