"""What goes in and out of the job core; the REST API, the pages and the command line share these shapes."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from retllm.db.enums import DecidedBy, ItemKind, ItemState, JobKind, JobState, Stage, UnitState


class Strict(BaseModel):
    """Refuses unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class InjectionRequest(Strict):
    """Visual re-injection of one search; what is left out comes from the settings (method, section 4)."""

    alpha: float | None = Field(default=None, ge=0, le=1, description="share of the visual signal")
    trigger: Literal["entropy", "fixed", "off"] | None = Field(default=None, description="when to inject")
    tau: float | None = Field(default=None, ge=0, le=1, description="uncertainty that arms the next layer")
    start: int | None = Field(default=None, ge=0, description="layers after this one may arm")
    end: int | None = Field(default=None, ge=1, description="layers before this one may arm")
    fixed_layer: int | None = Field(default=None, ge=0, description="the layer of the fixed trigger")
    scope: Literal["all", "suffix"] | None = Field(default=None, description="positions that are injected")


class SearchRequest(Strict):
    """A search as it is asked for. Text, picture or both; the picture comes beside it as bytes."""

    text: str | None = Field(default=None, description="the query text")
    k: int | None = Field(default=None, ge=1, description="candidates that go to the fine stage")
    kinds: list[ItemKind] | None = Field(
        default=None, min_length=1, description="kinds of items to search; all if left out"
    )
    query_image_weight: float | None = Field(default=None, ge=0, le=1, description="share of the picture in the query")
    injection: InjectionRequest = InjectionRequest()
    tie_decimals: int | None = Field(default=None, ge=0, le=12, description="decimals that make a tie")


class StageProgress(BaseModel):
    """How far one stage of a job is. ``items`` counts items (embed) or candidates (fine)."""

    stage: Stage
    units: dict[UnitState, int]
    items_total: int
    items_done: int
    items_failed: int
    seconds: float | None


class UnitError(BaseModel):
    """Why a unit failed the last time, or for good."""

    stage: Stage
    seq: int
    state: UnitState
    attempt: int
    error: str
    run_after: datetime | None


class JobView(BaseModel):
    """A job as the API shows it."""

    id: UUID
    kind: JobKind
    state: JobState
    collection_id: UUID
    collection_name: str
    user_name: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    cancel_requested: bool
    error: str | None
    progress: float = Field(description="share of the work that is done, 0 to 1")
    stages: list[StageProgress]
    errors: list[UnitError]
    params: dict[str, Any]


class CandidateView(BaseModel):
    """One row of a result: an item, where each stage put it, and why."""

    rank: int = Field(description="rank in the order shown: final, or provisional while the job runs")
    final_rank: int | None
    coarse_rank: int
    similarity: float
    score: float | None
    entropy: float | None
    injected_layer: int | None
    uncertainty: float | None
    decided_by: DecidedBy | None
    error: str | None
    item_id: UUID
    name: str
    kind: ItemKind
    item_state: ItemState
    text: str | None
    has_thumbnail: bool


class SearchView(BaseModel):
    """A search: its question, everything that explains its answer, and its candidates in order."""

    id: UUID
    job: JobView
    kind: ItemKind
    text: str | None
    has_picture: bool
    k: int
    kinds: list[ItemKind]
    query_image_weight: float
    embedder: str
    embedder_revision: str | None
    scorer: str
    scorer_revision: str | None
    scorer_version: str | None
    prompt_version: str | None
    mode: str
    injection: dict[str, Any]
    tie_decimals: int
    searched_items: int | None
    provisional: bool
    coarse_at: datetime | None
    final_at: datetime | None
    candidates: list[CandidateView]
