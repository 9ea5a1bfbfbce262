"""What a search answers: the shapes that the REST API, the pages and the command line share."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from retllm.db.enums import DecidedBy, ItemKind, ItemState
from retllm.history.job_views import JobView
from retllm.search.settings import SearchSettings, with_settings


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


@with_settings(SearchSettings, stored=True)
class SearchView(BaseModel):
    """A search: its question, everything that explains its answer, and its candidates in order."""

    id: UUID
    job: JobView
    kind: ItemKind
    text: str | None
    has_picture: bool
    embedder: str
    embedder_revision: str | None
    scorer: str
    scorer_revision: str | None
    scorer_version: str | None
    prompt_version: str | None
    injection: dict[str, Any]
    adaptive: dict[str, Any] | None = Field(description="the waves' settings; null if all k candidates are scored")
    sources: list[SourceView] = Field(description="where the candidates come from, fused by reciprocal rank if several")
    searched_items: int | None
    match_threshold: float | None = Field(
        description="log-odds that separate a match from none, learned from the scores there are; null: 0 was taken"
    )
    no_match: bool | None = Field(description="true if no candidate is a good match; null while that is not known")
    provisional: bool
    coarse_at: datetime | None
    final_at: datetime | None
    notice: str | None = Field(description="what to know of the models that judged, such as that they are for a demo")
    candidates: list[CandidateView]

    @property
    def settings(self) -> SearchSettings:
        """What the search was asked with."""
        embedders = [source.name for source in self.sources if source.kind == "embedder"]
        captions = any(source.kind == "captions" for source in self.sources)
        values = {name: getattr(self, name) for name in SearchSettings.model_fields if name != "coarse"}
        return SearchSettings.stored(values | {"coarse": {"embedders": embedders, "captions": captions}})
