"""The request of a search; shared by the REST API, the pages and the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, Discriminator, Field, Tag

from retllm.embedding.info import not_configured
from retllm.errors import InvalidInput
from retllm.filters import parse
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
    """Visual re-injection of one search; omitted fields have the defaults of the settings (method, section 4)."""


@with_settings(AdaptiveSettings)
class AdaptiveRequest(Strict):
    """The waves of one search; omitted fields have the defaults of the settings."""


@with_settings(CoarseSettings)
class CoarseRequest(Strict):
    """The sources of candidates of one search; omitted fields have the defaults of the settings."""


class LikeRequest(Strict):
    """An item to find similar items of: its picture and text complete the query."""

    item: UUID = Field(description="key of the item; it may be in another collection")
    parts: list[Literal["picture", "text"]] | None = Field(
        default=None, min_length=1, description="parts of the item to search with; default: all parts it has"
    )


def _kind_of_waves(value: object) -> str:
    return "yes_or_no" if isinstance(value, bool) else "waves"


# discriminated, so that an error in the settings is not also reported as "not a boolean"
Waves = Annotated[
    Annotated[bool, Tag("yes_or_no")] | Annotated[AdaptiveRequest, Tag("waves")], Discriminator(_kind_of_waves)
]


@with_settings(SearchSettings)
class SearchRequest(Strict):
    """A search by text, picture or both; the picture is sent separately as bytes."""

    text: str | None = Field(default=None, description="the query text")
    scorer: str | None = Field(
        default=None, description="the scorer of the fine stage, by its public name; default: the main one"
    )
    injection: InjectionRequest = InjectionRequest()
    coarse: CoarseRequest | None = Field(default=None, description="the sources of the candidates")
    adaptive: Waves | None = Field(
        default=None,
        description="score in waves and stop when the best candidate is clear: true, false, or settings of the waves",
    )
    like: LikeRequest | None = Field(
        default=None,
        description="find items similar to this one; a text or picture in the query replaces that of the item",
    )


MAX_COLLECTIONS = 100
"""Maximum number of collections of one search; each is asked by itself."""


def _kind_of_collections(value: object) -> str:
    return "all" if isinstance(value, str) else "named"


# discriminated, so that an error in a key is not also reported as "not all"
Collections = Annotated[
    Annotated[Literal["all"], Tag("all")]
    | Annotated[list[UUID], Field(min_length=1, max_length=MAX_COLLECTIONS), Tag("named")],
    Discriminator(_kind_of_collections),
]


class SeveralRequest(SearchRequest):
    """A search of several collections by text, picture or both; the picture is sent separately as bytes."""

    collections: Collections = Field(
        description=f"the collections to search, at most {MAX_COLLECTIONS}; `all`: those that the caller may search "
        "now and that have something indexed"
    )

    def of_one(self) -> tuple[UUID, SearchRequest] | None:
        """Return the collection and the search of it, if the request names only one."""
        if self.collections == "all" or len(set(self.collections)) > 1:
            return None
        plain = {name: getattr(self, name) for name in self.model_fields_set - {"collections"}}
        return self.collections[0], SearchRequest.model_construct(**plain)


def resolve(request: SearchRequest, settings: Settings, embedder: str) -> SearchSettings:
    """Return the settings of a search: the requested ones, and defaults for those that the request omits.

    Args:
        request: the search request.
        settings: the settings of the platform.
        embedder: the main embedder of the collection.

    Raises:
        InvalidInput: k is above the maximum, an embedder is not configured, or the filter can't be read.
    """
    values = _filled(SearchSettings, request, settings)
    if values["k"] > settings.max_k:
        raise InvalidInput(f"k is at most {settings.max_k} here (setting RETLLM_MAX_K).", field="k")
    values["kinds"] = sorted(set(values["kinds"]))
    # one way to write it, so that equal filters do not make searches look different
    found = parse(values["filter"] or "")
    values["filter"] = str(found) if found else None
    if values["injection"]["trigger"] != "fixed":
        # it has no effect, and must not make searches look different
        values["injection"]["fixed_layer"] = None
    if values["tie_decimals"] is None:
        values["tie_decimals"] = default_tie_decimals(values["mode"])
    served = _served(values["coarse"]["embedders"], settings)
    values["coarse"]["embedders"] = sorted(served, key=lambda name: name != embedder)
    return SearchSettings(**values)


def _filled(model: type[Strict], request: object, settings: Settings) -> dict[str, Any]:
    """Return the values of the fields of ``model`` that ``request`` sets, and the defaults of the others."""
    given = {name: value for name, value in request if value is not None} if isinstance(request, BaseModel) else {}
    values = in_force(model, settings)
    values |= {name: value for name, value in given.items() if name in values}
    groups = {name: group for name, info in model.model_fields.items() if (group := group_of(info))}
    # a group is enabled, disabled, or given as an object
    return values | {
        name: None if values[name] is False else _filled(group, values[name], settings)
        for name, group in groups.items()
    }


def _served(embedders: Sequence[str], settings: Settings) -> list[str]:
    """Return the public names of the embedders, in the order of the settings."""
    requested = {public_name(name): name for name in embedders}
    unknown = [name for public, name in requested.items() if public not in settings.embedders]
    if unknown:
        raise not_configured(unknown[0], settings, field="coarse.embedders")
    return [name for name in settings.embedders if name in requested]
