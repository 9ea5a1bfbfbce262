"""What goes in and out of the job core; the REST API, the pages and the command line share these shapes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from retllm.db.enums import DecidedBy, ItemKind, ItemState, JobKind, JobState, Stage, UnitState
from retllm.fine.prompts import Mode


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


class AdaptiveRequest(Strict):
    """The waves of one search; what is left out comes from the settings."""

    first: int | None = Field(default=None, ge=1, description="candidates of the first wave")
    step: int | None = Field(default=None, ge=1, description="candidates of every wave after it")
    clear_score: float | None = Field(
        default=None, allow_inf_nan=False, description="log-odds that the best needs to be clear; 0 is even odds"
    )
    clear_gap: float | None = Field(
        default=None, ge=0, allow_inf_nan=False, description="log-odds by which it leads the second best to be clear"
    )


class CoarseRequest(Strict):
    """Where one search looks for its candidates; what is left out comes from the settings."""

    captions: bool | None = Field(default=None, description="look for the query's words in texts and captions too")
    embedders: list[str] | None = Field(
        default=None, description="which of the embedders in force to ask; all if left out, none for captions alone"
    )


class LikeRequest(Strict):
    """An item that a search wants more of: what it has stands in for what the query lacks."""

    item: UUID = Field(description="its key; it may be in another collection")
    parts: list[Literal["picture", "text"]] | None = Field(
        default=None, min_length=1, description="which of its parts to ask with; all that it has if left out"
    )


def _kind_of_waves(value: object) -> str:
    return "yes_or_no" if isinstance(value, bool) else "waves"


# told apart first, so that a mistake in the settings is named as that and not also as "no boolean"
Waves = Annotated[
    Annotated[bool, Tag("yes_or_no")] | Annotated[AdaptiveRequest, Tag("waves")], Discriminator(_kind_of_waves)
]


class SearchRequest(Strict):
    """A search as it is asked for. Text, picture or both; the picture comes beside it as bytes."""

    text: str | None = Field(default=None, description="the query text")
    k: int | None = Field(
        default=None, ge=1, description="candidates that go to the fine stage; with `adaptive`, at most so many"
    )
    kinds: list[ItemKind] | None = Field(
        default=None, min_length=1, description="kinds of items to search; all if left out"
    )
    query_image_weight: float | None = Field(default=None, ge=0, le=1, description="share of the picture in the query")
    injection: InjectionRequest = InjectionRequest()
    tie_decimals: int | None = Field(default=None, ge=0, le=12, description="decimals that make a tie")
    coarse: CoarseRequest | None = Field(default=None, description="the sources of the candidates")
    mode: Mode | None = Field(default=None, description="how the scorer is asked")
    adaptive: Waves | None = Field(
        default=None, description="score in waves and stop when the best is clear: true, false, or the waves' settings"
    )
    fusion_weight: float | None = Field(
        default=None,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description="log-odds that one standard deviation of coarse similarity adds to a score",
    )
    trace: bool = Field(default=False, description="keep what the model did at each layer, to be looked at later")
    like: LikeRequest | None = Field(
        default=None, description="find what is like this item; a text or picture of the query's own goes before its"
    )


class StageProgress(BaseModel):
    """How far one stage of a job is.

    ``items`` counts items (embed; with several embedders, an item once for each that it lacks) or candidates (fine; of
    a search in waves, those of the waves so far).
    """

    stage: Stage
    units: dict[UnitState, int]
    items_total: int
    items_done: int
    items_failed: int
    seconds: float | None
    started_at: datetime | None = Field(description="when the first unit was taken up")
    finished_at: datetime | None = Field(description="when the last unit ended; null while one is open")


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


class SourceRank(BaseModel):
    """Where one source of the coarse stage had a candidate."""

    rank: int = Field(description="1 for the first of this source")
    similarity: float | None = Field(default=None, description="cosine, of an embedder")
    score: float | None = Field(default=None, description="how much of the query its words are, of the captions")


class CandidateView(BaseModel):
    """One row of a result: an item, where each stage put it, and why."""

    rank: int = Field(description="rank in the order shown: final, or provisional while the job runs")
    final_rank: int | None
    coarse_rank: int
    similarity: float | None = Field(
        description="cosine to the query by the search's embedder; null if it has not embedded the item"
    )
    sources: dict[str, SourceRank] | None = Field(
        description="its rank in each source that found it, if there are several"
    )
    score: float | None
    log_odds: float | None = Field(description="ln(score / (1 - score)), known more finely than the score")
    fused: float | None = Field(description="log-odds and similarity as one number, if the search fuses them")
    entropy: float | None
    injected_layer: int | None
    uncertainty: float | None
    decided_by: DecidedBy | None
    cached: bool = Field(description="the same pair was scored before, and its score was taken")
    has_trace: bool
    error: str | None
    item_id: UUID
    name: str
    kind: ItemKind
    item_state: ItemState
    text: str | None
    has_thumbnail: bool


class SourceView(BaseModel):
    """A source that a search asked for its candidates."""

    name: str = Field(description="the embedder's name, or `captions`")
    kind: Literal["embedder", "captions"]
    revision: str | None = Field(description="of the embedder")
    searched: int | None = Field(description="items that it could have found; null while that is not known")
    found: int | None = Field(description="items that it put into the fusion; null before the coarse stage is over")
    unused: str | None = Field(description="why it could not answer; null if it did")


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
    adaptive: dict[str, Any] | None = Field(description="the waves' settings; null if all k candidates are scored")
    fusion_weight: float
    trace: bool
    sources: list[SourceView] = Field(description="where the candidates come from, fused by reciprocal rank if several")
    searched_items: int | None
    match_threshold: float | None = Field(
        description="log-odds that separate a match from none, learned from the scores there are; null: 0 was taken"
    )
    no_match: bool | None = Field(description="true if no candidate is a good match; null while that is not known")
    provisional: bool
    coarse_at: datetime | None
    final_at: datetime | None
    candidates: list[CandidateView]
