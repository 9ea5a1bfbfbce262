"""What goes in and out of the job core; the REST API, the pages and the command line share these shapes."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from retllm.db.enums import ItemKind
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
