"""The settings of a search, each defined once.

A request has the same fields, all optional (:mod:`retllm.search.request`). The row, the view, the comparison, the
export and the form of a search iterate over :data:`SETTINGS`. To add a setting, add a field here, a default in
:class:`retllm.settings.Settings`, its use in the search, and a line in the form; a setting outside of a group also
needs a column with its name in ``searches``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from inspect import isclass
from typing import Annotated, Any, Literal, Self, TypeVar, get_args, get_origin

from annotated_types import Ge, Le
from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.fields import FieldInfo

from retllm.db.enums import ItemKind
from retllm.db.searches import Search
from retllm.filters import MAX_CHARS
from retllm.fine.injection import Injection
from retllm.fine.prompts import Mode
from retllm.settings import Settings

Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """A model that rejects unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class _Default:
    """The default of a setting; for a group that can be off, whether it is on by default."""

    of: Callable[[Settings], Any]


def _setting(unset: Callable[[Settings], Any], title: str, description: str | None = None, **field: Any) -> Any:
    info: FieldInfo = Field(title=title, description=description, **field)
    info.metadata.append(_Default(unset))
    return info


class CoarseSettings(Strict):
    """The sources of candidates of a search."""

    embedders: list[str] = _setting(
        lambda settings: list(settings.embedders),
        "Embedders",
        "configured embedders to use; default: all; empty: only captions",
    )
    captions: bool = _setting(
        lambda settings: settings.coarse_captions,
        "Search words in captions",
        "search the query's words in texts, captions and text in pictures too",
    )


class InjectionSettings(Strict):
    """The re-injection settings that a search can choose (for all of them see ``retllm.fine.Injection``)."""

    trigger: Literal["entropy", "fixed", "off"] = _setting(
        lambda settings: settings.default_trigger, "when", "when to inject"
    )
    alpha: float = _setting(lambda settings: settings.alpha, "alpha", "share of the visual signal", ge=0, le=1)
    tau: float = _setting(lambda settings: settings.tau, "tau", "uncertainty that arms the next layer", ge=0, le=1)
    start: int | None = _setting(lambda _: None, "after layer", "layers after this one may arm", ge=0)
    end: int | None = _setting(lambda _: None, "before layer", "layers before this one may arm", ge=1)
    fixed_layer: int | None = _setting(
        lambda settings: settings.fixed_layer, "fixed layer", "the layer of the fixed trigger", ge=0
    )
    scope: Literal["all", "suffix"] = _setting(
        lambda settings: settings.scope, "positions", "positions that are injected"
    )
    scaling: bool = _setting(
        lambda settings: settings.injection_scaling,
        "scaled",
        "scale the picture and its contribution to the norm of the layer; if off, use the formula of the paper as is",
    )


class AdaptiveSettings(Strict):
    """The waves of a search (``retllm.fine.waves.Adaptive``)."""

    first: int = _setting(lambda settings: settings.adaptive_first, "first", "candidates of the first wave", ge=1)
    step: int = _setting(lambda settings: settings.adaptive_step, "step", "candidates of every wave after it", ge=1)
    clear_score: float = _setting(
        lambda settings: settings.adaptive_clear_score,
        "clear score",
        "log-odds that the best candidate needs to be clear; 0 is even odds",
        allow_inf_nan=False,
    )
    clear_gap: float = _setting(
        lambda settings: settings.adaptive_clear_gap,
        "clear gap",
        "lead in log-odds over the second best that the best candidate needs to be clear",
        ge=0,
        allow_inf_nan=False,
    )


class SearchSettings(Strict):
    """The complete settings of one search."""

    k: int = _setting(
        lambda settings: settings.k,
        "Candidates (k)",
        "candidates for the fine stage; with `adaptive`, the maximum",
        ge=1,
    )
    kinds: list[ItemKind] = _setting(
        lambda _: list(ItemKind), "Kinds of items", "kinds of items to search; default: all", min_length=1
    )
    filter: str | None = _setting(
        lambda _: None,
        "Filter",
        'items to search, such as `taken >= 1998 and folder ~ "Italy/"`; default: all',
        max_length=MAX_CHARS,
    )
    query_image_weight: float = _setting(
        lambda settings: settings.query_image_weight,
        "Share of the picture in the query",
        "weight of the picture in a query of picture and text",
        ge=0,
        le=1,
    )
    coarse: CoarseSettings = _setting(lambda _: True, "")
    mode: Mode = _setting(lambda settings: settings.default_mode, "What the model answers", "how the scorer is asked")
    injection: InjectionSettings = _setting(lambda _: True, "Re-injection")
    # default: by the mode, unless the platform's settings have a value
    tie_decimals: int = _setting(
        lambda settings: settings.tie_decimals,
        "Tie decimals",
        "scores that are equal to so many decimals tie",
        ge=0,
        le=12,
    )
    adaptive: AdaptiveSettings | None = _setting(lambda settings: settings.adaptive, "Waves")
    fusion_weight: float = _setting(
        lambda settings: settings.fusion_weight,
        "Weight of the coarse stage",
        "log-odds added to a score per standard deviation of coarse similarity",
        ge=0,
        le=100,
        allow_inf_nan=False,
    )
    trace: bool = _setting(
        lambda _: False,
        "Keep the re-injection map",
        "keep what the model did at each layer, for later inspection",
        default=False,
    )

    @classmethod
    def stored(cls, values: Mapping[str, Any]) -> Self:
        """Build the settings of a stored search from ``values``, with groups as mappings.

        Values are not validated, since bounds may have changed.
        """
        groups = {
            name: group.model_construct(**{part: values[name].get(part) for part in group.model_fields})
            for name, group in _GROUPS.items()
            if values[name] is not None
        }
        return cls.model_construct(**{**values, **groups})

    @classmethod
    def of(cls, search: Search) -> Self:
        """Return the settings that a search was stored with."""
        values = {name: getattr(search, name) for name in cls.model_fields if name != "kinds"}
        coarse = search.coarse or {"embedders": [search.embedder], "captions": False}
        return cls.stored(values | {"kinds": [ItemKind(kind) for kind in search.item_kinds], "coarse": coarse})

    def columns(self) -> dict[str, Any]:
        """Return the column values of the search's row, except ``coarse`` (:func:`retllm.search.coarse.plan`).

        Raises:
            InvalidInput: the re-injection settings are inconsistent.
        """
        injection = Injection(**self.injection.model_dump())
        kinds = [str(kind) for kind in self.kinds]
        plain = self.model_dump(exclude={"kinds", "coarse"})
        return plain | {"item_kinds": kinds, "injection": injection.as_json()}

    def plain(self) -> dict[str, Any]:
        """Return the settings that are not groups."""
        return {name: value for name, value in self if name not in _GROUPS}

    def flat(self) -> dict[str, Any]:
        """Return every setting by name; a group that can be off is one entry, a mapping or None."""
        return {setting.name: _plain(setting.of(self)) for setting in SETTINGS if not setting.in_optional}


def _plain(value: Any) -> Any:
    return value.model_dump() if isinstance(value, BaseModel) else value


@dataclass(frozen=True)
class Setting:
    """A setting, or a group of settings that can be off.

    Attributes:
        path: names that lead to it in :class:`SearchSettings`.
        info: the field's definition.
        label: name shown to people.
        in_optional: whether it is part of a group that can be off.
    """

    path: tuple[str, ...]
    info: FieldInfo
    label: str
    in_optional: bool

    @property
    def name(self) -> str:
        """The unique, dotted name."""
        return ".".join(self.path)

    @property
    def is_group(self) -> bool:
        """Whether it is a group that can be off."""
        return group_of(self.info) is not None

    @property
    def is_switch(self) -> bool:
        """Whether it is on or off."""
        return self.info.annotation is bool or self.is_group

    @property
    def is_list(self) -> bool:
        """Whether it holds several values."""
        return get_origin(self.info.annotation) is list

    @property
    def bounds(self) -> dict[str, Any]:
        """The bounds and the step of a number, as attributes of an HTML input."""
        bounds: dict[str, Any] = {}
        for part in self.info.metadata:
            bounds |= {"min": part.ge} if isinstance(part, Ge) else {"max": part.le} if isinstance(part, Le) else {}
        whole = int in (self.info.annotation, *get_args(self.info.annotation))
        return bounds | {"step": 1 if whole else "any"}

    def default(self, settings: Settings) -> Any:
        """Return the value of a search that omits this setting."""
        return default_of(self.info, settings)

    def of(self, settings: SearchSettings) -> Any:
        """Return the value in ``settings``; None in a group that is off."""
        value: Any = settings
        for name in self.path:
            value = getattr(value, name, None)
        return value


def default_of(info: FieldInfo, settings: Settings) -> Any:
    """Return the value of a search that omits this field; for a group, whether it is on."""
    (default,) = (part for part in info.metadata if isinstance(part, _Default))
    return default.of(settings)


def group_of(info: FieldInfo) -> type[Strict] | None:
    """Return the group of settings that a field holds, or None."""
    types = (info.annotation, *get_args(info.annotation))
    return next((part for part in types if isclass(part) and issubclass(part, Strict)), None)


def in_force(model: type[Strict], settings: Settings) -> dict[str, Any]:
    """Return the values of a search that omits every field of ``model``."""
    return {name: default_of(info, settings) for name, info in model.model_fields.items()}


def _every(model: type[Strict]) -> Iterator[Setting]:
    for name, info in model.model_fields.items():
        group = group_of(info)
        optional = group is not info.annotation
        if group is None or optional:
            yield Setting((name,), info, info.title or name, in_optional=False)
        for part, inner in group.model_fields.items() if group else ():
            label = f"{info.title}: {inner.title}" if info.title else inner.title or part
            yield Setting((name, part), inner, label, in_optional=optional)


_GROUPS = {name: group for name, info in SearchSettings.model_fields.items() if (group := group_of(info))}
SETTINGS = tuple(_every(SearchSettings))
"""All settings, in display order."""


def with_settings(full: type[Strict], *, stored: bool = False) -> Callable[[type[Model]], type[Model]]:
    """Return a decorator that adds the settings of ``full``, except groups, to a model as optional, validated fields.

    For a model of a ``stored`` search, the fields are required and bounds are not checked, since they may have changed.
    """

    def add(model: type[Model]) -> type[Model]:
        plain = {name: info for name, info in full.model_fields.items() if group_of(info) is None}
        fields: Any = {name: _as_stored(info) if stored else _optional(info) for name, info in plain.items()}
        return create_model(
            model.__name__, __base__=model, __module__=model.__module__, __doc__=model.__doc__, **fields
        )

    return add


def _optional(info: FieldInfo) -> Any:
    annotated: Any = Annotated
    bounded = annotated[(info.annotation, *info.metadata)]
    if not info.is_required():
        return bounded, Field(default=info.default, description=info.description)
    return bounded | None, Field(default=None, description=info.description)


def _as_stored(info: FieldInfo) -> Any:
    choice = get_origin(info.annotation) is Literal
    return str if choice else info.annotation, Field(description=info.description)
