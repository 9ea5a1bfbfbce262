"""Evaluations: store reports of `retllm eval`, run reviewed queries again, read the results of both."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from flask import Response, request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy.orm import Session

from retllm.db.enums import OVER_JOBS, JobState, RunSource
from retllm.db.reviews import EvaluationRun
from retllm.db.session import transaction
from retllm.errors import NotFound, TooLarge
from retllm.review import runs
from retllm.review.measures import Verdict
from retllm.review.outcome import outcome_of
from retllm.review.reports import MAX_BYTES, Report
from retllm.review.summary import Figures, Means
from retllm.search.request import SearchRequest
from retllm_web.actions import evaluations
from retllm_web.api.answers import answer, nothing
from retllm_web.api.blueprint import PREFIX, api, strictly
from retllm_web.api.collections import CollectionPath
from retllm_web.api.spec import ErrorBody, tags
from retllm_web.http.auth import current_actor
from retllm_web.http.bodies import ONE_LINE
from retllm_web.http.paging import PageQuery, cut, optional
from retllm_web.http.services import services

TAGS = tags("evaluations")


RunName = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=ONE_LINE)]


class RunPath(BaseModel):
    """The key of an evaluation."""

    run_id: UUID


class RunQuery(PageQuery):
    """Which evaluations to list."""

    collection: UUID | None = optional("only runs of this collection's reviewed queries")


class ReportRequest(BaseModel):
    """A report of `retllm eval` (its result.json) to store."""

    model_config = ConfigDict(extra="forbid")

    name: RunName | None = Field(default=None, description="default: its benchmark and seed")
    report: Report


class AskRequest(BaseModel):
    """Settings to run the reviewed queries with; the server's settings are the defaults."""

    model_config = ConfigDict(extra="forbid")

    name: RunName | None = Field(default=None, description="name of the run")
    settings: SearchRequest = Field(
        default=SearchRequest(), description="each query keeps its own text, kinds, filter and picture weight"
    )


class RunView(BaseModel):
    """An evaluation without its results."""

    id: UUID
    name: str
    source: RunSource
    collection_id: UUID | None = Field(description="null for a report, which every account may see")
    collection_name: str | None
    user_name: str | None
    created_at: datetime


class RunList(BaseModel):
    """A page of evaluations, newest first."""

    evaluations: list[RunView]
    next: UUID | None = Field(description="pass as `after` to get the next page; null on the last page")


class FiguresView(BaseModel):
    """The measures of one search, from 0 to 1; null where the verdict is unknown."""

    verdict: Verdict
    recall_coarse: float | None
    recall_fine: float | None
    ndcg_coarse: float | None = Field(description="nDCG@10 of the coarse order")
    ndcg_fine: float | None


class MeansView(BaseModel):
    """Means over the queries with measures in both searches, from 0 to 1."""

    verdicts: dict[Verdict, int]
    recall_coarse: float | None
    recall_fine: float | None
    ndcg_coarse: float | None
    ndcg_fine: float | None


class AnswerView(BaseModel):
    """A query of a run: its search, the search that it repeats, and their measures where known."""

    question: str
    search: UUID
    before: UUID
    now: FiguresView | None
    then: FiguresView | None


class OutcomeView(BaseModel):
    """The results of a run of reviewed queries, possibly provisional."""

    final: bool = Field(description="every search is over; later marks do not change the measures")
    searches: dict[JobState, int] = Field(description="number of searches in each state, without deleted ones")
    total: int
    over: int
    shared: int = Field(description="number of queries that the means cover")
    now: MeansView
    then: MeansView
    gain: float | None = Field(description="change of the fine stage's Recall@1")
    gain_interval: tuple[float, float] | None = Field(description="its 95 % interval")
    answers: list[AnswerView]


class RunDetail(RunView):
    """An evaluation with its results: `report` or `outcome`, depending on its source."""

    report: Report | None
    asked: dict[str, Any] | None = Field(description="the settings of the searches")
    outcome: OutcomeView | None


def _run_view(session: Session, run: EvaluationRun) -> RunView:
    """Return one evaluation.

    Raises:
        NotFound: it was deleted meanwhile.
    """
    views = _run_views(session, [run])
    if not views:
        raise NotFound("There is no such evaluation.")
    return views[0]


def _run_views(session: Session, found: list[EvaluationRun]) -> list[RunView]:
    """Return evaluations, without those deleted meanwhile."""
    names = runs.names_of(session, found)
    return [
        RunView(
            id=run.id,
            name=run.name,
            source=run.source,
            collection_id=run.collection_id,
            collection_name=names[run.id][0],
            user_name=names[run.id][1],
            created_at=run.created_at,
        )
        for run in found
        if run.id in names
    ]


def _figures(figures: Figures | None) -> FiguresView | None:
    return None if figures is None else FiguresView.model_validate(figures, from_attributes=True)


def _means(means: Means) -> MeansView:
    return MeansView.model_validate(means, from_attributes=True)


def _outcome(session: Session, run: EvaluationRun) -> OutcomeView:
    states, outcome = runs.states_of(session, run), outcome_of(session, run)
    total = len(runs.searches_of(run))
    open_ones = sum(count for state, count in states.items() if state not in OVER_JOBS)
    return OutcomeView(
        final=outcome.final,
        searches=states,
        total=total,
        over=total - open_ones,
        shared=outcome.shared,
        now=_means(outcome.now),
        then=_means(outcome.then),
        gain=outcome.gain,
        gain_interval=outcome.gain_interval,
        answers=[
            AnswerView(
                question=each.question,
                search=each.search,
                before=each.before,
                now=_figures(each.now),
                then=_figures(each.then),
            )
            for each in outcome.answers
        ],
    )


def _detail(session: Session, run: EvaluationRun) -> RunDetail:
    plain = _run_view(session, run)
    if run.source is RunSource.UPLOADED:
        return RunDetail(**plain.model_dump(), report=Report.model_validate(run.report), asked=None, outcome=None)
    outcome = _outcome(session, run)
    return RunDetail(**plain.model_dump(), report=None, asked=run.report.get("asked", {}), outcome=outcome)


def _made(run: EvaluationRun) -> Response:
    with transaction(services().sessions) as session:
        view = _run_view(session, run)
    return answer(view, 201, location=f"{PREFIX}/evaluations/{run.id}")


@api.get("/evaluations", tags=TAGS, responses={200: RunList})
def list_evaluations(query: RunQuery) -> Response:
    """List the evaluations that the caller may see, newest first."""
    with transaction(services().sessions) as session:
        rows = runs.list_runs(
            session, current_actor(), collection_id=query.collection, after=query.after, limit=query.limit + 1
        )
        page, following = cut(rows, query.limit)
        return answer(RunList(evaluations=_run_views(session, page), next=following))


@api.post("/evaluations", tags=TAGS, responses={201: RunView})
def add_evaluation(body: ReportRequest) -> Response:
    """Store a report of `retllm eval`; every account may see it."""
    if len(request.get_data()) > MAX_BYTES:
        raise TooLarge("The report is larger than 10 MB.")
    body = strictly(type(body), request.get_data())
    return _made(evaluations.add(current_actor(), body.report, body.name))


@api.post("/collections/<uuid:collection_id>/evaluations", tags=TAGS, responses={201: RunView, 409: ErrorBody})
def ask_reviewed_questions(path: CollectionPath, body: AskRequest) -> Response:
    """Run the reviewed queries of a collection again: one search for each with a relevant mark, at most 500."""
    body = strictly(type(body), request.get_data())
    return _made(evaluations.ask_again(current_actor(), path.collection_id, body.settings, body.name))


@api.get("/evaluations/<uuid:run_id>", tags=TAGS, responses={200: RunDetail})
def get_evaluation(path: RunPath) -> Response:
    """Return one evaluation with its results."""
    with transaction(services().sessions) as session:
        return answer(_detail(session, runs.run_for(session, current_actor(), path.run_id)))


@api.delete("/evaluations/<uuid:run_id>", tags=TAGS, responses={204: None})
def delete_evaluation(path: RunPath) -> Response:
    """Delete an evaluation; its searches stay in the history."""
    evaluations.delete(current_actor(), path.run_id)
    return nothing()
