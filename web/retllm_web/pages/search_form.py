"""The search form of every page: empty, or filled from an address, a submitted form or an earlier search.

A full form has every setting; a compact form has the query and k, and uses the server's settings for the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args
from uuid import UUID

from flask import request
from pydantic import ValidationError
from werkzeug.datastructures import MultiDict

from retllm.db.tables import Item
from retllm.errors import InvalidInput
from retllm.fine.decision import default_tie_decimals
from retllm.fine.opening import served_settings
from retllm.fine.prompts import Mode
from retllm.search.request import MAX_COLLECTIONS, SearchRequest, SeveralRequest
from retllm.search.results import SearchView
from retllm.search.settings import SETTINGS, InjectionSettings, SearchSettings, Setting
from retllm.settings import Settings, public_name
from retllm_web.http.errors import invalid
from retllm_web.http.paging import key_or_none
from retllm_web.http.services import services
from retllm_web.pages.forms import Form

# a form is flat: the name of a field is the last part of its setting's
_FIELDS = {setting.path[-1]: setting for setting in SETTINGS}
_BOXES = [name for name, setting in _FIELDS.items() if setting.is_switch]
_SEVERAL = [*(name for name, setting in _FIELDS.items() if setting.is_list), "like_parts", "also"]
_SINGLE = ["text", "scorer", *(name for name in _FIELDS if name not in _BOXES and name not in _SEVERAL)]
# other fields; `shown` is the scorer whose defaults the form shows, `again` the search whose picture is used again,
# `earlier` the one whose picture is offered, `collection` the one to search or `all`, and `also` further ones
_OTHER = ("shown", "collection", "like", "again", "earlier", "whole")
# fields without a value, which can have errors
_ONLY_ERRORS = ("picture", "coarse")
_QUERY = ("text", "k", "scorer")
_YES = ("1", "true", "on", "yes")

MODES: dict[str, tuple[str, str]] = {
    "true_false": ("true or false", "the probability of “True”, in one pass"),
    "choice": ("A or B", "two passes with the letters swapped, which cancels a bias for one letter"),
    "verbalized": ("a written number", "the model writes a score, as in the paper; the slowest mode"),
}
"""Label and description of each mode."""

TRIGGERS = {"entropy": "when uncertain", "fixed": "always, at one layer", "off": "never"}
SCOPES = {"suffix": "after the last picture", "all": "the whole prompt"}


@dataclass
class SearchForm(Form):
    """The search form.

    Attributes:
        compact: whether it shows only the query and k.
        notes: settings of an earlier search that are no longer available.
        liked: the example item of the query, if any.
        picture_lost: a picture was sent, and must be chosen again.
    """

    compact: bool = False
    notes: list[str] = field(default_factory=list)
    liked: Item | None = None
    picture_lost: bool = False
    _defaults_of: dict[str, dict[str, Any]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def posted(cls) -> SearchForm:
        """Return the form of this request, with an empty value for every field that was not sent."""
        form = cls(_values(request.form), compact=not request.form.get("whole"))
        form.follow_scorer()
        return form

    def follow_scorer(self) -> None:
        """Give the chosen scorer its own defaults, where the form has those of the scorer that it showed.

        What a scorer on a server can't do is thus no obstacle if nobody asked for it.
        """
        before, after = (_defaults(_serving(str(self.values[name]))) for name in ("shown", "scorer"))
        self.values |= {
            name: after[name]
            for name, value in before.items()
            if value != after[name] and _plain(self.values.get(name)) == _plain(value)
        }

    def widen(self) -> None:
        """Turn a compact form into a full one; the fields that it did not show get their defaults."""
        if self.compact:
            shown = {name: value for name, value in self.values.items() if name in request.form or name in _ONLY_ERRORS}
            self.values = self.values | self.defaults | shown
            self.compact = False

    @property
    def modes(self) -> list[tuple[str, str, str]]:
        """Return value, label and description of each mode."""
        return [(mode, *MODES.get(mode, (mode, ""))) for mode in get_args(Mode)]

    @property
    def scorers(self) -> list[ScorerChoice]:
        """Return the scorers; the first one is the main one."""
        return [_choice(name) for name in services().settings.scorer_names]

    @property
    def scorer(self) -> ScorerChoice:
        """Return the chosen scorer; the main one if it is not configured."""
        return _choice(str(self.values.get("scorer", "")))

    @property
    def triggers(self) -> dict[str, str]:
        """Return the labels of the triggers."""
        return TRIGGERS

    @property
    def scopes(self) -> dict[str, str]:
        """Return the labels of the scopes."""
        return SCOPES

    @property
    def defaults(self) -> dict[str, Any]:
        """Return the default settings as values of this form."""
        scorer = str(self.values.get("scorer", ""))
        # a page asks for them for each field
        if scorer not in self._defaults_of:
            self._defaults_of[scorer] = _defaults(_serving(scorer))
        return self._defaults_of[scorer]

    def bounds(self, name: str) -> dict[str, Any]:
        """Return the bounds of a numeric field."""
        return _FIELDS[name].bounds

    @property
    def changed(self) -> list[str]:
        """Return the names of the advanced settings that differ from their defaults."""
        return [
            name
            for name, default in self.defaults.items()
            if name not in _QUERY and _plain(self.values.get(name)) != _plain(default)
        ]

    @property
    def refused_settings(self) -> list[str]:
        """Return the names of the advanced settings with errors."""
        return [name for name in (*self.defaults, "coarse") if name in self.errors and name not in _QUERY]


@dataclass(frozen=True)
class ScorerChoice:
    """A scorer that a search can name: whether it runs on a server, and its own defaults, by field."""

    name: str
    on_server: bool
    defaults: dict[str, Any]


def _choice(name: str) -> ScorerChoice:
    settings = _serving(name)
    defaults = {field: _shown(_FIELDS[field].default(settings)) for field in ("mode", "trigger")}
    return ScorerChoice(public_name(settings.scorer_name), settings.remote_scorer is not None, defaults)


def _serving(name: str) -> Settings:
    """Return the settings with a scorer; with the main one if that is not configured."""
    settings = services().settings
    return served_settings(settings, name if name in settings.scorer_names else None)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return sorted(str(part) for part in value)
    return value if isinstance(value, bool) else _written(value)


def _written(value: Any) -> str:
    """Return a number without a trailing ".0"."""
    return "" if value is None else str(value).removesuffix(".0")


def _shown(value: Any) -> Any:
    """Return a setting as the value of its field."""
    if isinstance(value, list):
        return [str(part) for part in value]
    return value if isinstance(value, bool) else _written(value)


def _defaults(settings: Settings) -> dict[str, Any]:
    return {name: _shown(setting.default(settings)) for name, setting in _FIELDS.items()}


def _values(sent: MultiDict[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = dict.fromkeys(_ONLY_ERRORS, "")
    values |= {name: sent.get(name, "") for name in (*_SINGLE, *_OTHER)}
    values |= {name: sent.get(name, "") in _YES for name in _BOXES}
    return values | {name: sent.getlist(name) for name in _SEVERAL}


def search_form(given: MultiDict[str, str] | None = None, *, compact: bool = True) -> SearchForm:
    """Return the form with the default settings, overridden by those of an address."""
    given = given or MultiDict()
    settings = _serving(given.get("scorer", ""))
    form = SearchForm(_defaults(settings) | {"scorer": public_name(settings.scorer_name)}, compact=compact)
    fill(form, given)
    return form


def fill(form: SearchForm, given: MultiDict[str, str]) -> None:
    """Override values of the form with those of an address."""
    clean = MultiDict((name, value.replace("\0", "")) for name, value in given.items(multi=True))
    form.values |= {name: value for name, value in _values(clean).items() if name in clean}


ALL = "all"
"""The choice of all collections that the account may search."""


def collections_of(form: SearchForm) -> list[UUID] | Literal["all"]:
    """Return the collections that a form names, each once.

    Raises:
        NotFound: a key is malformed.
    """
    if form.text("collection") == ALL:
        return "all"
    named = [form.text("collection"), *form.values.get("also", [])]
    return list(dict.fromkeys(key for text in named if (key := key_or_none(text, "collection"))))


def several_of(request: SearchRequest, collections: list[UUID] | Literal["all"]) -> SeveralRequest:
    """Return a search request with its collections.

    Raises:
        InvalidInput: they are too many.
    """
    if len(collections) > MAX_COLLECTIONS:
        raise InvalidInput(f"One search takes {MAX_COLLECTIONS} collections at most.", field="collection")
    given = {name: getattr(request, name) for name in request.model_fields_set}
    return SeveralRequest.model_construct(**given, collections=collections)


def form_of(search: SearchView) -> SearchForm:
    """Return the form filled with an earlier search, for searching again."""
    settings, asked = _serving(search.scorer), search.settings
    values = {name: _value(setting, asked, settings) for name, setting in _FIELDS.items()}
    values["tie_decimals"] = _own_decimals(asked, settings)
    if settings.remote_scorer is not None:
        values |= {name: _FIELDS[name].default(settings) for name in (*InjectionSettings.model_fields, "trace")}
    values["embedders"] = [name for name in asked.coarse.embedders if name in settings.embedders]
    query = {"text": search.text or "", "scorer": public_name(settings.scorer_name)}
    form = SearchForm({name: _shown(value) for name, value in values.items()} | query)
    form.values["also"] = [str(collection.id) for collection in search.collections[1:]]
    if search.has_picture:
        form.values["again"] = form.values["earlier"] = str(search.id)
    form.notes = _notes(search, settings)
    return form


def _value(setting: Setting, asked: SearchSettings, settings: Settings) -> Any:
    value = setting.of(asked)
    if setting.is_group:
        return value is not None
    # when a group is off, its fields have their defaults
    return setting.default(settings) if value is None and setting.in_optional else value


def _own_decimals(asked: SearchSettings, settings: Settings) -> int | None:
    """Return the decimals of a search; the setting, if they are the default of its mode and not a choice."""
    usual = settings.tie_decimals if settings.tie_decimals is not None else default_tie_decimals(asked.mode)
    return settings.tie_decimals if asked.tie_decimals == usual else asked.tie_decimals


def _notes(search: SearchView, settings: Settings) -> list[str]:
    removed = [name for name in search.settings.coarse.embedders if name not in settings.embedders]
    notes = [f"The embedder {name} of the earlier search is no longer available." for name in removed]
    scorer = public_name(settings.scorer_name)
    if search.scorer != scorer:
        notes.append(f"The earlier search used the scorer {search.scorer}; this one will use {scorer}.")
    if settings.remote_scorer is not None and search.injection["trigger"] != "off":
        notes.append("The scorer runs on a server now, where nothing can be re-injected.")
    return notes


def request_of(form: SearchForm) -> SearchRequest:
    """Return the search request of a submitted form.

    Raises:
        InvalidInput: a field is invalid; ``detail.fields`` names it.
    """
    asked: dict[str, Any] = form.given("text", "scorer") | _given(form) | {"injection": _injection(form)}
    if not form.compact:
        asked["adaptive"] = _given(form, "adaptive") if form.values["adaptive"] else False
        asked["coarse"] = _coarse(form)
    if form.text("like"):
        asked["like"] = _like(form)
    try:
        return SearchRequest.model_validate(asked)
    except ValidationError as error:
        raise invalid(error) from error


def _given(form: SearchForm, *group: str) -> dict[str, Any]:
    """Return the form's values for the settings of a group, or of none; a compact form has no switches."""
    given: dict[str, Any] = {}
    for name, setting in _FIELDS.items():
        if setting.path[:-1] != group or setting.is_group:
            continue
        if setting.is_switch:
            given |= {} if form.compact else {name: form.values[name]}
        elif setting.is_list:
            given |= {name: form.values[name]} if form.values.get(name) else {}
        else:
            given |= form.given(name)
    return given


def _injection(form: SearchForm) -> dict[str, Any]:
    """Return the settings of the re-injection, without those that the chosen trigger does not use.

    Raises:
        InvalidInput: the trigger needs a layer, and the form has none.
    """
    asked = _given(form, "injection")
    if form.scorer.on_server:
        # none has a use there, and each is refused
        return asked
    if asked.get("trigger") != "fixed":
        asked.pop("fixed_layer", None)
    elif "fixed_layer" not in asked:
        raise InvalidInput("Enter the layer for the re-injection, counted from 0.", field="fixed_layer")
    if asked.get("trigger", "entropy") != "entropy":
        asked.pop("start", None)
        asked.pop("end", None)
    return asked


def _coarse(form: SearchForm) -> dict[str, Any] | None:
    """Return the sources, or None for the defaults, which may differ between collections."""
    asked = {name: form.values[name] for name, setting in _FIELDS.items() if setting.path[0] == "coarse"}
    return None if all(_plain(value) == _plain(form.defaults[name]) for name, value in asked.items()) else asked


def _like(form: SearchForm) -> dict[str, Any] | None:
    """Return the example item and its parts; None for a full form with no part selected."""
    parts = form.values["like_parts"]
    if not parts and not form.compact:
        return None
    return {"item": form.text("like"), "parts": parts or None}


def earlier_of(form: SearchForm) -> UUID | None:
    """Return the key of the search whose picture the form offers; None if it is missing or malformed."""
    try:
        return UUID(form.text("earlier"))
    except ValueError:
        return None
