"""Jobs and searches as they are shown: every number is a SELECT, nothing is counted on the side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.access import job_for, within_visible
from retllm.db.enums import OPEN_UNITS, DecidedBy, ItemKind, ItemState, JobKind, JobState, Stage, UnitState
from retllm.db.tables import Candidate, Collection, EmbeddingModel, Item, Job, Score, Search, Unit, User
from retllm.errors import NotFound
from retllm.jobs import coarse_stage, fine_stage, ranking
from retllm.jobs.schemas import CandidateView, JobView, SearchView, StageProgress, UnitError

_MOST_ERRORS = 20
# progress of a job that is still at work
_ALMOST = 0.99


def list_jobs(
    session: Session,
    user: User,
    *,
    kind: JobKind | None = None,
    state: JobState | None = None,
    collection_id: UUID | None = None,
    after: UUID | None = None,
    limit: int = 50,
) -> list[Job]:
    """A page of jobs, newest first; ``after`` is the last id of the page before (keyset)."""
    query = sa.select(Job).where(within_visible(user, Job.collection_id)).order_by(Job.id.desc()).limit(limit)
    if kind is not None:
        query = query.where(Job.kind == kind)
    if state is not None:
        query = query.where(Job.state == state)
    if collection_id is not None:
        query = query.where(Job.collection_id == collection_id)
    if after is not None:
        query = query.where(Job.id < after)
    return list(session.scalars(query))


def job_view(session: Session, job: Job) -> JobView:
    """One job with its progress, its stages and the errors of its units."""
    return job_views(session, [job])[0]


def job_views(session: Session, jobs: Sequence[Job]) -> list[JobView]:
    """Several jobs, with a fixed number of queries."""
    ids = [job.id for job in jobs]
    stages = _stages(session, ids)
    pools = _pools(session, ids)
    errors = _errors(session, ids)
    names: dict[UUID, tuple[str, str]] = {
        job_id: (collection, user)
        for job_id, collection, user in session.execute(
            sa.select(Job.id, Collection.name, User.name)
            .join(Collection, Collection.id == Job.collection_id)
            .join(User, User.id == Job.user_id)
            .where(Job.id.in_(ids))
        )
    }
    return [
        JobView(
            id=job.id,
            kind=job.kind,
            state=job.state,
            collection_id=job.collection_id,
            collection_name=names[job.id][0],
            user_name=names[job.id][1],
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
            cancel_requested=job.cancel_requested,
            error=job.error,
            progress=_progress(job, stages[job.id], pools.get(job.id, 0)),
            stages=stages[job.id],
            errors=errors[job.id],
            params=job.params,
        )
        for job in jobs
    ]


def _pools(session: Session, job_ids: Sequence[UUID]) -> dict[UUID, int]:
    """How many candidates each search has."""
    query = sa.select(Candidate.search_id, sa.func.count()).where(Candidate.search_id.in_(job_ids))
    return {row[0]: row[1] for row in session.execute(query.group_by(Candidate.search_id))}


def _progress(job: Job, stages: Sequence[StageProgress], pool: int) -> float:
    """Share of the work that is over. A failed job shows what it reached, never 1 for having ended.

    A search in waves is measured by its whole pool while it is at work, so that a new wave takes nothing back; that it
    needs no further wave shows as a leap to its end.
    """
    if job.state is JobState.SUCCEEDED:
        return 1.0
    last = Stage.EMBED if job.kind is JobKind.INDEX else Stage.FINE
    for stage in stages:
        if stage.stage is not last or not stage.items_total:
            continue
        if job.finished_at is not None:
            return round(stage.items_done / stage.items_total, 4)
        # all candidates may have their score while ties still wait for their entropy
        return min(_ALMOST, round(stage.items_done / max(stage.items_total, pool), 4))
    return 0.0


def _stages(session: Session, job_ids: Sequence[UUID]) -> dict[UUID, list[StageProgress]]:
    named = sa.func.coalesce(sa.func.jsonb_array_length(Unit.payload["items"]), 0)
    # the candidates of the entropy pass were counted when they got their score
    items = sa.case((fine_stage.ENTROPY_PASS, 0), else_=named)
    query = (
        sa.select(
            Unit.job_id,
            Unit.stage,
            Unit.state,
            sa.func.count(),
            sa.func.sum(items),
            sa.func.min(Unit.started_at),
            sa.func.max(Unit.finished_at),
        )
        .where(Unit.job_id.in_(job_ids))
        .group_by(Unit.job_id, Unit.stage, Unit.state)
    )
    found: dict[UUID, dict[Stage, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for row in session.execute(query):
        found[row[0]][row[1]].append(row[2:])
    order = list(Stage)
    result: dict[UUID, list[StageProgress]] = defaultdict(list)
    for job_id, stages in found.items():
        result[job_id] = [_stage(stage, stages[stage]) for stage in sorted(stages, key=order.index)]
    return result


def _stage(stage: Stage, rows: Sequence[Any]) -> StageProgress:
    units: dict[UnitState, int] = {state: count for state, count, *_ in rows}
    items: dict[UnitState, int] = {state: int(total) for state, _, total, *_ in rows}
    started: list[datetime] = [row[3] for row in rows if row[3]]
    finished: list[datetime] = [row[4] for row in rows if row[4]]
    seconds = (max(finished) - min(started)).total_seconds() if started and finished else None
    return StageProgress(
        stage=stage,
        units=units,
        # a split unit's items are counted in the units that replaced it
        items_total=sum(count for state, count in items.items() if state is not UnitState.SPLIT),
        items_done=items.get(UnitState.DONE, 0),
        items_failed=items.get(UnitState.DEAD, 0),
        seconds=max(0.0, seconds) if seconds is not None else None,
        started_at=min(started, default=None),
        finished_at=None if any(units.get(state) for state in OPEN_UNITS) else max(finished, default=None),
    )


def _errors(session: Session, job_ids: Sequence[UUID]) -> dict[UUID, list[UnitError]]:
    rank = sa.func.row_number().over(partition_by=Unit.job_id, order_by=(Unit.stage, Unit.seq)).label("rank")
    failing = sa.select(Unit.id, rank).where(
        Unit.job_id.in_(job_ids),
        Unit.error.is_not(None),
        Unit.state.in_([UnitState.READY, UnitState.LEASED, UnitState.DEAD]),
    )
    ranked = failing.subquery()
    query = (
        sa.select(Unit)
        .join(ranked, ranked.c.id == Unit.id)
        .where(ranked.c.rank <= _MOST_ERRORS)
        .order_by(Unit.stage, Unit.seq)
    )
    result: dict[UUID, list[UnitError]] = defaultdict(list)
    for unit in session.scalars(query):
        result[unit.job_id].append(
            UnitError(
                stage=unit.stage,
                seq=unit.seq,
                state=unit.state,
                attempt=unit.attempt,
                error=unit.error or "",
                run_after=unit.run_after if unit.state is UnitState.READY else None,
            )
        )
    return result


def search_view(session: Session, search_id: UUID, *, user: User) -> SearchView:
    """A search with its candidates in their final order, or in the order that the scores so far give.

    Raises:
        NotFound: there is no such search, or it is someone else's.
    """
    job = job_for(session, user, search_id)
    search = session.scalar(sa.select(Search).where(Search.id == search_id).execution_options(populate_existing=True))
    if search is None:
        raise NotFound("This job is no search.")
    model = session.get(EmbeddingModel, search.model_id) if search.model_id else None
    candidates = _candidates(session, search)
    return SearchView(
        id=search.id,
        job=job_view(session, job),
        kind=search.kind,
        text=search.query_text,
        has_picture=search.query_picture_key is not None,
        k=search.k,
        kinds=[ItemKind(kind) for kind in search.item_kinds],
        query_image_weight=search.query_image_weight,
        embedder=search.embedder,
        embedder_revision=model.revision if model else None,
        scorer=search.scorer,
        scorer_revision=search.scorer_revision,
        scorer_version=search.scorer_version,
        prompt_version=search.prompt_version,
        mode=search.mode,
        injection=search.injection,
        tie_decimals=search.tie_decimals,
        adaptive=search.adaptive,
        fusion_weight=search.fusion_weight,
        trace=search.trace,
        sources=coarse_stage.sources_of(search, model.revision if model else None, len(candidates)),
        searched_items=search.searched_items,
        match_threshold=search.match_threshold,
        no_match=search.no_match,
        provisional=search.final_at is None,
        coarse_at=search.coarse_at,
        final_at=search.final_at,
        candidates=candidates,
    )


def _candidates(session: Session, search: Search) -> list[CandidateView]:
    rows = ranking.rows_of(session, search.id)
    by_item = {row.candidate.item_id: row for row in rows}
    fused = dict(zip(by_item, ranking.fused_of(rows, search), strict=True))
    items = {item.id: item for item in session.scalars(sa.select(Item).where(Item.id.in_(list(by_item))))}
    shown: list[tuple[int, UUID, DecidedBy | None]]
    if search.final_at is None:
        order = ranking.order_of(rows, search)
        shown = [(entry.rank, entry.key, DecidedBy(entry.decided_by)) for entry in order]
    else:
        shown = [(row.candidate.final_rank or 0, row.candidate.item_id, row.candidate.decided_by) for row in rows]
        shown.sort(key=lambda entry: entry[0])
    return [
        _candidate(rank, by_item[item_id], items[item_id], decided if by_item[item_id].score else None, fused[item_id])
        for rank, item_id, decided in shown
    ]


def _candidate(
    rank: int, row: ranking.Row, item: Item, decided: DecidedBy | None, fused: float | None
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
        item_id=item.id,
        name=item.name,
        kind=item.kind,
        item_state=item.state,
        text=item.text,
        has_thumbnail=item.thumbnail_key is not None and item.state is ItemState.READY,
    )


def trace_of(session: Session, search_id: UUID, item_id: UUID, *, user: User) -> dict[str, Any]:
    """What the model did at each layer when it judged a candidate (``retllm.fine.Trace.as_json``).

    Raises:
        NotFound: no such search or candidate for this user, or the search kept no trace of it.
    """
    job_for(session, user, search_id)
    trace: dict[str, Any] | None = session.scalar(
        sa.select(Score.trace)
        .join(Search, sa.and_(Search.id == Score.search_id, Search.scorer_version == Score.scorer_version))
        .where(Score.search_id == search_id, Score.item_id == item_id)
    )
    if trace is None:
        raise NotFound("There is no trace of this candidate: ask for `trace` when you search.")
    return trace
