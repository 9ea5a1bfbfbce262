"""The settings of a search: all that it is asked with beside its question, each defined once.

The request is their partial form (:mod:`retllm.search.request`). The row, the view, the comparison, the export and the
form of a search are made by going over :data:`SETTINGS`. A new setting is a field here, a default in
:class:`retllm.settings.Settings`, its use in the search, and a line in the form. One that is no part of a group also
has a column of its name in ``searches``.
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
from retllm.db.tables import Search
from retllm.fine.injection import Injection
from retllm.fine.prompts import Mode
from retllm.settings import Settings

Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """Refuses unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class _Default:
    """What a search takes that leaves a setting out; of a group that can be off, whether it is on."""

    of: Callable[[Settings], Any]


def _setting(unset: Callable[[Settings], Any], title: str, description: str | None = None, **field: Any) -> Any:
    info: FieldInfo = Field(title=title, description=description, **field)
    info.metadata.append(_Default(unset))
    return info


class CoarseSettings(Strict):
    """Where a search looks for its candidates."""

    embedders: list[str] = _setting(
        lambda settings: list(settings.embedders),
        "Embedders asked",
        "which of the embedders in force to ask; all if left out, none for captions alone",
    )
    captions: bool = _setting(
        lambda settings: settings.coarse_captions,
        "Words looked for in captions",
        "look for the query's words in texts and captions too",
    )


class InjectionSettings(Strict):
    """Visual re-injection, as far as a search chooses it (``retllm.fine.Injection`` has it whole)."""

    trigger: Literal["entropy", "fixed", "off"] = _setting(lambda settings: settings.trigger, "when", "when to inject")
    alpha: float = _setting(lambda settings: settings.alpha, "alpha", "share of the visual signal", ge=0, le=1)
    tau: float = _setting(lambda settings: settings.tau, "tau", "uncertainty that arms the next layer", ge=0, le=1)
    start: int | None = _setting(lambda _: None, "after layer", "layers after this one may arm", ge=0)
    end: int | None = _setting(lambda _: None, "before layer", "layers before this one may arm", ge=1)
    fixed_layer: int | None = _setting(lambda _: None, "fixed layer", "the layer of the fixed trigger", ge=0)
    scope: Literal["all", "suffix"] = _setting(
        lambda settings: settings.scope, "positions", "positions that are injected"
    )
    scaling: bool = _setting(
        lambda settings: settings.injection_scaling,
        "scaled",
        "bring the picture and what it adds to the layer's size; without it, the bare formula of the paper",
    )


class AdaptiveSettings(Strict):
    """The waves of a search (``retllm.fine.waves.Adaptive``)."""

    first: int = _setting(lambda settings: settings.adaptive_first, "first", "candidates of the first wave", ge=1)
    step: int = _setting(lambda settings: settings.adaptive_step, "step", "candidates of every wave after it", ge=1)
    clear_score: float = _setting(
        lambda settings: settings.adaptive_clear_score,
        "clear score",
        "log-odds that the best needs to be clear; 0 is even odds",
        allow_inf_nan=False,
    )
    clear_gap: float = _setting(
        lambda settings: settings.adaptive_clear_gap,
        "clear gap",
        "log-odds by which it leads the second best to be clear",
        ge=0,
        allow_inf_nan=False,
    )


class SearchSettings(Strict):
    """The settings of one search, all of them known."""

    k: int = _setting(
        lambda settings: settings.k,
        "Candidates (k)",
        "candidates that go to the fine stage; with `adaptive`, at most so many",
        ge=1,
    )
    kinds: list[ItemKind] = _setting(
        lambda _: list(ItemKind), "Kinds of items", "kinds of items to search; all if left out", min_length=1
    )
    query_image_weight: float = _setting(
        lambda settings: settings.query_image_weight,
        "Share of the picture in the query",
        "share of the picture in the query",
        ge=0,
        le=1,
    )
    coarse: CoarseSettings = _setting(lambda _: True, "")
    mode: Mode = _setting(lambda settings: settings.mode, "What the model answers", "how the scorer is asked")
    injection: InjectionSettings = _setting(lambda _: True, "Re-injection")
    # none in the platform's settings: those that suit the mode
    tie_decimals: int = _setting(
        lambda settings: settings.tie_decimals, "Decimals that make a tie", "decimals that make a tie", ge=0, le=12
    )
    adaptive: AdaptiveSettings | None = _setting(lambda settings: settings.adaptive, "Waves")
    fusion_weight: float = _setting(
        lambda settings: settings.fusion_weight,
        "Weight of the coarse stage",
        "log-odds that one standard deviation of coarse similarity adds to a score",
        ge=0,
        le=100,
        allow_inf_nan=False,
    )
    trace: bool = _setting(
        lambda _: False,
        "Re-injection map kept",
        "keep what the model did at each layer, to be looked at later",
        default=False,
    )

    @classmethod
    def stored(cls, values: Mapping[str, Any]) -> Self:
        """The settings of a search that was made before, whatever the bounds are by now; groups are mappings."""
        groups = {
            name: group.model_construct(**{part: values[name].get(part) for part in group.model_fields})
            for name, group in _GROUPS.items()
            if values[name] is not None
        }
        return cls.model_construct(**{**values, **groups})

    @classmethod
    def of(cls, search: Search) -> Self:
        """Those that a search was stored with."""
        values = {name: getattr(search, name) for name in cls.model_fields if name != "kinds"}
        coarse = search.coarse or {"embedders": [search.embedder], "captions": False}
        return cls.stored(values | {"kinds": [ItemKind(kind) for kind in search.item_kinds], "coarse": coarse})

    def columns(self) -> dict[str, Any]:
        """What the search's row holds, beside ``coarse`` (:func:`retllm.search.coarse.plan`).

        Raises:
            InvalidInput: the settings of the re-injection contradict one another.
        """
        injection = Injection(**self.injection.model_dump())
        kinds = [str(kind) for kind in self.kinds]
        plain = self.model_dump(exclude={"kinds", "coarse"})
        return plain | {"item_kinds": kinds, "injection": injection.as_json()}

    def plain(self) -> dict[str, Any]:
        """The settings that are no groups."""
        return {name: value for name, value in self if name not in _GROUPS}

    def flat(self) -> dict[str, Any]:
        """Every setting by its name; a group that can be off is one, as a mapping or None."""
        return {setting.name: _plain(setting.of(self)) for setting in SETTINGS if not setting.in_optional}


def _plain(value: Any) -> Any:
    return value.model_dump() if isinstance(value, BaseModel) else value


@dataclass(frozen=True)
class Setting:
    """One of the settings, or a group of them that can be off.

    Attributes:
        path: where it stands in :class:`SearchSettings`.
        info: its definition.
        label: what people call it.
        in_optional: it is part of a group that can be off.
    """

    path: tuple[str, ...]
    info: FieldInfo
    label: str
    in_optional: bool

    @property
    def name(self) -> str:
        """Its name among all of them."""
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
        """The bounds and the steps of a number, as HTML has them."""
        bounds: dict[str, Any] = {}
        for one in self.info.metadata:
            bounds |= {"min": one.ge} if isinstance(one, Ge) else {"max": one.le} if isinstance(one, Le) else {}
        whole = int in (self.info.annotation, *get_args(self.info.annotation))
        return bounds | {"step": 1 if whole else "any"}

    def default(self, settings: Settings) -> Any:
        """What a search takes that leaves it out."""
        return default_of(self.info, settings)

    def of(self, settings: SearchSettings) -> Any:
        """Its value; None in a group that is off."""
        value: Any = settings
        for name in self.path:
            value = getattr(value, name, None)
        return value


def default_of(info: FieldInfo, settings: Settings) -> Any:
    """What a search takes that leaves this field out; of a group, whether it is on."""
    (default,) = (one for one in info.metadata if isinstance(one, _Default))
    return default.of(settings)


def group_of(info: FieldInfo) -> type[Strict] | None:
    """The group of settings that a field holds, if it does."""
    held = (one for one in (info.annotation, *get_args(info.annotation)) if isclass(one) and issubclass(one, Strict))
    return next(held, None)


def in_force(model: type[Strict], settings: Settings) -> dict[str, Any]:
    """What a search takes that leaves out every field of ``model``."""
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
"""All of them, in the order in which people see them."""


def with_settings(full: type[Strict], *, stored: bool = False) -> Callable[[type[Model]], type[Model]]:
    """Add the settings of ``full`` to a model, but for groups: each can be left out and is held to its bounds.

    Of a model of what is ``stored``, none is left out and none is held to the bounds that there are by now.
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
