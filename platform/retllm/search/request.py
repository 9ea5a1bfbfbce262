"""A search as it is asked for; the REST API, the pages and the command line share these shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, Discriminator, Field, Tag

from retllm.errors import InvalidInput
from retllm.fine.decision import default_tie_decimals
from retllm.search.settings import (
    AdaptiveSettings,
    CoarseSettings,
    InjectionSettings,
    SearchSettings,
    Strict,
    group_of,
    in_force,
    with_settings,
)
from retllm.settings import Settings, public_name


@with_settings(InjectionSettings)
class InjectionRequest(Strict):
    """Visual re-injection of one search; what is left out comes from the settings (method, section 4)."""


@with_settings(AdaptiveSettings)
class AdaptiveRequest(Strict):
    """The waves of one search; what is left out comes from the settings."""


@with_settings(CoarseSettings)
class CoarseRequest(Strict):
    """Where one search looks for its candidates; what is left out comes from the settings."""


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


@with_settings(SearchSettings)
class SearchRequest(Strict):
    """A search as it is asked for. Text, picture or both; the picture comes beside it as bytes."""

    text: str | None = Field(default=None, description="the query text")
    injection: InjectionRequest = InjectionRequest()
    coarse: CoarseRequest | None = Field(default=None, description="the sources of the candidates")
    adaptive: Waves | None = Field(
        default=None, description="score in waves and stop when the best is clear: true, false, or the waves' settings"
    )
    like: LikeRequest | None = Field(
        default=None, description="find what is like this item; a text or picture of the query's own goes before its"
    )


def resolve(request: SearchRequest, settings: Settings, embedder: str) -> SearchSettings:
    """The settings of a search: what it asks for, and what is in force for all that it leaves out.

    Args:
        request: of the search.
        settings: of the platform.
        embedder: the one that the search's collection uses first.

    Raises:
        InvalidInput: k is more than a search may ask for, or an embedder is not one of those in force.
    """
    values = _filled(SearchSettings, request, settings)
    if values["k"] > settings.max_k:
        raise InvalidInput(f"k is at most {settings.max_k} here (setting RETLLM_MAX_K).", field="k")
    values["kinds"] = sorted(set(values["kinds"]))
    if values["tie_decimals"] is None:
        values["tie_decimals"] = default_tie_decimals(values["mode"])
    served = _served(values["coarse"]["embedders"], settings)
    values["coarse"]["embedders"] = sorted(served, key=lambda name: name != embedder)
    return SearchSettings(**values)


def _filled(model: type[Strict], asked: object, settings: Settings) -> dict[str, Any]:
    """The values of ``model``'s fields that ``asked`` has, and the defaults of the others."""
    given = {name: value for name, value in asked if value is not None} if isinstance(asked, BaseModel) else {}
    values = in_force(model, settings)
    values |= {name: value for name, value in given.items() if name in values}
    groups = {name: group for name, info in model.model_fields.items() if (group := group_of(info))}
    # a group is on, off, or what is asked of it
    return values | {
        name: None if values[name] is False else _filled(group, values[name], settings)
        for name, group in groups.items()
    }


def _served(asked: Sequence[str], settings: Settings) -> list[str]:
    """The names that results keep, in the order of the settings."""
    wanted = {public_name(name): name for name in asked}
    unknown = [name for public, name in wanted.items() if public not in settings.embedders]
    if unknown:
        raise InvalidInput(
            f"{unknown[0]} is not one of the embedders here ({', '.join(settings.embedders)}).",
            field="coarse.embedders",
        )
    return [name for name in settings.embedders if name in wanted]
