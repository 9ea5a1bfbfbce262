"""Reviews: mark what answers a search, read what the marks come to."""

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

    relevant: bool = Field(description="whether the item answers what the search asks")


class JudgmentView(BaseModel):
    """A mark on an item; every search of the collection that asks the same shares it."""

    item_id: UUID
    name: str
    relevant: bool
    user_name: str | None = Field(description="who marked it; null once that account is gone")
    updated_at: datetime
    deleted: bool = Field(description="the item is deleted; its mark counts in no measure")
    coarse_rank: int | None = Field(description="null if the item is no candidate of this search")
    final_rank: int | None


class StageView(BaseModel):
    """The measures of one order; shares from 0 to 1, keyed by the number of places."""

    recall_at_1: float = Field(description="1 if a relevant item is first, else 0")
    precision: dict[str, float]
    ndcg: dict[str, float]


class MeasuresView(BaseModel):
    """A search by the marks of its question; what has no mark counts as not relevant."""

    verdict: Verdict = Field(description="unknown while no relevant item is marked or the order is provisional")
    pool: int = Field(description="candidates of the search")
    marked: int = Field(description="candidates that have a mark")
    relevant: int = Field(description="relevant items that are known, found or not")
    coarse: StageView | None
    fine: StageView | None


class ReviewView(BaseModel):
    """The marks of a search's question, and its measures by them."""

    search_id: UUID
    question: str = Field(description="the same for all searches that ask the same text and picture")
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
    """Measures as the API shows them."""
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
    """The marks of what a search asks, relevant ones first, and its measures by them."""
    with transaction(services().sessions) as session:
        return answer(_view(review_of(session, current_actor(), path.search_id)))


@api.put("/searches/<uuid:search_id>/judgments/<uuid:item_id>", tags=TAGS, responses={200: ReviewView, 409: ErrorBody})
def set_judgment(path: CandidatePath, body: JudgmentRequest) -> Response:
    """Mark any item of the searched collection; the last mark on an item counts."""

    def mark(session: Session) -> ReviewView:
        marks.set_mark(session, current_actor(), path.search_id, path.item_id, body.relevant)
        return _view(review_of(session, current_actor(), path.search_id))

    return answer(run_transaction(services().sessions, mark))


@api.delete("/searches/<uuid:search_id>/judgments/<uuid:item_id>", tags=TAGS, responses={204: None})
def delete_judgment(path: CandidatePath) -> Response:
    """Take the mark of an item away, if it has one."""
    run_transaction(
        services().sessions,
        lambda session: marks.set_mark(session, current_actor(), path.search_id, path.item_id, None),
    )
    return nothing()
