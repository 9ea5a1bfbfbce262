"""The result of a search; shared by the REST API, the pages and the command line."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from retllm.db.enums import DecidedBy, ItemKind, ItemState
from retllm.history.job_views import JobView
from retllm.search.settings import SearchSettings, with_settings


class SourceRank(BaseModel):
    """The rank of a candidate in one source of the coarse stage."""

    rank: int = Field(description="rank in this source, from 1")
    similarity: float | None = Field(default=None, description="cosine similarity, for an embedder")
    score: float | None = Field(default=None, description="how well the text matches the query's words, for captions")


class CandidateView(BaseModel):
    """One row of a result: an item, its rank in each stage, and the values that decided it."""

    rank: int = Field(description="rank in the current order: final, or provisional while the job runs")
    final_rank: int | None
    coarse_rank: int
    similarity: float | None = Field(
        description="cosine similarity to the query by the search's main embedder; null if it has not embedded the item"
    )
    sources: dict[str, SourceRank] | None = Field(
        description="rank in each source that found the item; null if the search has one source"
    )
    score: float | None
    log_odds: float | None = Field(description="ln(score / (1 - score)), with more precision than the score")
    fused: float | None = Field(description="log-odds fused with similarity, if the search fuses them")
    entropy: float | None
    injected_layer: int | None
    uncertainty: float | None
    decided_by: DecidedBy | None
    cached: bool = Field(description="the score comes from the cache, since the same pair was scored before")
    has_trace: bool
    error: str | None = Field(description="why there is no score")
    remark: str | None = Field(
        default=None, description="what was changed for the scorer: a picture padded, a text shortened"
    )
    item_id: UUID
    collection_id: UUID = Field(description="the collection of the item")
    collection_name: str
    name: str
    archive: str | None = Field(default=None, description="the archive that the item came in, while its upload is kept")
    kind: ItemKind
    item_state: ItemState
    text: str | None
    text_in_picture: str | None = Field(description="the text in its picture, as a job read it")
    has_thumbnail: bool


class SearchedCollection(BaseModel):
    """A collection that a search was asked of."""

    id: UUID
    name: str


class SourceView(BaseModel):
    """A source of candidates of a search."""

    name: str = Field(description="the embedder's name, or `captions`")
    kind: Literal["embedder", "captions"]
    revision: str | None = Field(description="revision of the embedder, or language of the captions")
    searched: int | None = Field(description="number of searched items; null if not known yet")
    exact: bool | None = Field(
        default=None,
        description="whether the query was compared with every item; otherwise an index found the nearest, and "
        "`searched` is an estimate; null for captions, or if not known",
    )
    found: int | None = Field(description="number of items given to the fusion; null until the coarse stage ends")
    unused: str | None = Field(description="why the source could not answer; null if it did")


@with_settings(SearchSettings, stored=True)
class SearchView(BaseModel):
    """A search: its query, the settings and models that explain its result, and its candidates in order."""

    id: UUID
    job: JobView
    collections: list[SearchedCollection] = Field(description="the searched collections that the caller may see")
    hidden_collections: int = Field(
        description="number of searched collections that the caller may not see, or that were deleted; what the search "
        "found in them is left out, and its ranks are missing"
    )
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
    adaptive: dict[str, Any] | None = Field(description="settings of the waves; null if all k candidates are scored")
    sources: list[SourceView] = Field(description="sources of the candidates; several are fused by reciprocal rank")
    searched_items: int | None = Field(description="number of searched items; an estimate if `exact` is false")
    exact: bool | None = Field(
        description="whether every item was compared; false if an index found the nearest; null if not known"
    )
    match_threshold: float | None = Field(
        description="log-odds from which a candidate is a match, learned from scores of queries of this kind in this "
        "collection; null if there are too few, and for a search of several collections"
    )
    no_match: bool | None = Field(description="true if no candidate is a good match; null if not known")
    provisional: bool
    coarse_at: datetime | None
    final_at: datetime | None
    notice: str | None = Field(description="a note on the models of this search, for example that they are for a demo")
    candidates: list[CandidateView]

    @property
    def judged(self) -> int:
        """The number of candidates that have a score."""
        return sum(candidate.score is not None for candidate in self.candidates)

    @property
    def settings(self) -> SearchSettings:
        """The settings that the search was submitted with."""
        embedders = [source.name for source in self.sources if source.kind == "embedder"]
        captions = any(source.kind == "captions" for source in self.sources)
        values = {name: getattr(self, name) for name in SearchSettings.model_fields if name != "coarse"}
        return SearchSettings.stored(values | {"coarse": {"embedders": embedders, "captions": captions}})
