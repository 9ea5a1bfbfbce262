"""Reviews: mark items as relevant to a search, read the resulting measures."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from flask import Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from retllm.db.session import run_transaction, transaction
from retllm.review import marks
from retllm.review.measures import Measures, StageMeasures, Verdict
from retllm.review.search import Review, review_of
from retllm_web.api.answers import answer, nothing
from retllm_web.api.blueprint import api
from retllm_web.api.searches import CandidatePath, SearchPath
from retllm_web.api.spec import ErrorBody, tags
from retllm_web.http.auth import current_actor
from retllm_web.http.services import services

TAGS = tags("reviews")


class JudgmentRequest(BaseModel):
    """A mark."""

    model_config = ConfigDict(extra="forbid", strict=True)

    relevant: bool = Field(description="whether the item is relevant to the query")


class JudgmentView(BaseModel):
    """A mark on an item, shared by all searches of the collection with the same query."""

    item_id: UUID
    name: str
    relevant: bool
    user_name: str | None = Field(description="who marked it; null if the account was deleted")
    updated_at: datetime
    deleted: bool = Field(description="the item is deleted or in the trash; measures ignore its mark")
    coarse_rank: int | None = Field(description="null if the item is not a candidate of this search")
    final_rank: int | None


class StageView(BaseModel):
    """The measures of one order, from 0 to 1, keyed by the cutoff n."""

    recall_at_1: float = Field(description="1 if a relevant item is first, else 0")
    precision: dict[str, float]
    ndcg: dict[str, float]


class MeasuresView(BaseModel):
    """The measures of a search from the marks of its query; unmarked items count as not relevant."""

    verdict: Verdict = Field(description="unknown while no item is marked as relevant or the order is provisional")
    pool: int = Field(description="number of candidates")
    marked: int = Field(description="number of marked candidates")
    relevant: int = Field(description="number of items marked as relevant, found or not")
    coarse: StageView | None
    fine: StageView | None


class ReviewView(BaseModel):
    """The marks of a search's query, and the measures from them."""

    search_id: UUID
    question: str = Field(description="the same for all searches with the same text and picture")
    judgments: list[JudgmentView]
    measures: MeasuresView


def _stage(stage: StageMeasures | None) -> StageView | None:
    if stage is None:
        return None
    return StageView(
        recall_at_1=stage.recall_at_1,
        precision={str(n): value for n, value in stage.precision.items()},
        ndcg={str(n): value for n, value in stage.ndcg.items()},
    )


def measures_view(measures: Measures) -> MeasuresView:
    """Return the measures as the API shows them."""
    return MeasuresView(
        verdict=measures.verdict,
        pool=measures.pool,
        marked=measures.marked,
        relevant=measures.relevant,
        coarse=_stage(measures.coarse),
        fine=_stage(measures.fine),
    )


def _view(review: Review) -> ReviewView:
    names = JudgmentView.model_fields
    return ReviewView(
        search_id=review.asked.search_id,
        question=review.asked.question,
        judgments=[JudgmentView(**{name: getattr(mark, name) for name in names}) for mark in review.marks],
        measures=measures_view(review.measures),
    )


@api.get("/searches/<uuid:search_id>/judgments", tags=TAGS, responses={200: ReviewView})
def list_judgments(path: SearchPath) -> Response:
    """List the marks of a search's query, relevant ones first, with the measures from them."""
    with transaction(services().sessions) as session:
        return answer(_view(review_of(session, current_actor(), path.search_id)))


@api.put("/searches/<uuid:search_id>/judgments/<uuid:item_id>", tags=TAGS, responses={200: ReviewView, 409: ErrorBody})
def set_judgment(path: CandidatePath, body: JudgmentRequest) -> Response:
    """Mark an item of the searched collection; a new mark replaces the old one."""

    def mark(session: Session) -> ReviewView:
        marks.set_mark(session, current_actor(), path.search_id, path.item_id, body.relevant)
        return _view(review_of(session, current_actor(), path.search_id))

    return answer(run_transaction(services().sessions, mark))


@api.delete("/searches/<uuid:search_id>/judgments/<uuid:item_id>", tags=TAGS, responses={204: None})
def delete_judgment(path: CandidatePath) -> Response:
    """Remove the mark of an item, if it has one."""
    run_transaction(
        services().sessions,
        lambda session: marks.set_mark(session, current_actor(), path.search_id, path.item_id, None),
    )
    return nothing()
