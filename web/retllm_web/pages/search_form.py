"""The form to search, wherever it stands: empty, out of an address, as it was sent, or out of an earlier search.

A whole form has every setting; a compact one has the question and k, and leaves the rest to the settings in force.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, get_args
from uuid import UUID

from flask import request
from pydantic import ValidationError
from werkzeug.datastructures import MultiDict

from retllm.db.tables import Item
from retllm.errors import InvalidInput
from retllm.fine.decision import default_tie_decimals
from retllm.fine.prompts import Mode
from retllm.search.request import SearchRequest
from retllm.search.results import SearchView
from retllm.search.settings import SETTINGS, SearchSettings, Setting
from retllm.settings import Settings, public_name
from retllm_web.http.errors import invalid
from retllm_web.http.services import services
from retllm_web.pages.forms import Form

# a form is flat: the name of a field is the last part of its setting's
_FIELDS = {setting.path[-1]: setting for setting in SETTINGS}
_BOXES = [name for name, setting in _FIELDS.items() if setting.is_switch]
_SEVERAL = [*(name for name, setting in _FIELDS.items() if setting.is_list), "like_parts"]
_SINGLE = ["text", *(name for name in _FIELDS if name not in _BOXES and name not in _SEVERAL)]
# what the form asks with, beside its settings; `again` is the picture of `earlier`, if that is to be used
_HANDED = ("collection", "like", "again", "earlier", "whole")
# errors of fields that have no value of their own
_TOLD = ("picture", "coarse")
_QUESTION = ("text", "k")
_YES = ("1", "true", "on", "yes")

MODES: dict[str, tuple[str, str]] = {
    "true_false": ("true or false", "how sure the model is of “True”, in one reading"),
    "choice": ("A or B", "read twice with the letters exchanged, so that a liking for a letter cancels"),
    "verbalized": ("a written number", "the model writes a score, as in the paper; the slowest"),
}
"""What each way of asking is called, and what it does."""

TRIGGERS = {"entropy": "when unsure", "fixed": "always, at one layer", "off": "never"}
SCOPES = {"suffix": "after the last picture", "all": "the whole prompt"}


@dataclass
class Asking(Form):
    """The form to search.

    Attributes:
        compact: whether it shows the question and k alone.
        notes: what can't be asked again as it was.
        liked: the item that the query is to be like, if one is named.
        picture_lost: a picture was sent, and has to be chosen once more.
    """

    compact: bool = False
    notes: list[str] = field(default_factory=list)
    liked: Item | None = None
    picture_lost: bool = False

    @classmethod
    def posted(cls) -> Asking:
        """The form of this request, with an empty value for every field that was not sent."""
        return cls(_values(request.form), compact=not request.form.get("whole"))

    def widen(self) -> None:
        """Make a compact form a whole one: what it did not show has the settings in force."""
        if self.compact:
            shown = {name: value for name, value in self.values.items() if name in request.form or name in _TOLD}
            self.values = self.values | self.defaults | shown
            self.compact = False

    @property
    def modes(self) -> list[tuple[str, str, str]]:
        """Value, name and meaning of each way of asking."""
        return [(mode, *MODES.get(mode, (mode, ""))) for mode in get_args(Mode)]

    @property
    def triggers(self) -> dict[str, str]:
        """The names of the triggers."""
        return TRIGGERS

    @property
    def scopes(self) -> dict[str, str]:
        """The names of the scopes."""
        return SCOPES

    @property
    def defaults(self) -> dict[str, Any]:
        """The settings in force, as values of this form."""
        return _defaults(services().settings)

    def bounds(self, name: str) -> dict[str, Any]:
        """The bounds of the field of a number."""
        return _FIELDS[name].bounds

    @property
    def changed(self) -> list[str]:
        """The advanced settings that differ from those in force."""
        return [
            name
            for name, default in self.defaults.items()
            if name not in _QUESTION and _plain(self.values.get(name)) != _plain(default)
        ]

    @property
    def refused_settings(self) -> list[str]:
        """The advanced settings that were refused."""
        return [name for name in (*self.defaults, "coarse") if name in self.errors and name not in _QUESTION]


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return sorted(str(one) for one in value)
    return value if isinstance(value, bool) else _written(value)


def _written(value: Any) -> str:
    """A number as a person writes it."""
    return "" if value is None else str(value).removesuffix(".0")


def _shown(value: Any) -> Any:
    """A setting as the value of its field."""
    if isinstance(value, list):
        return [str(one) for one in value]
    return value if isinstance(value, bool) else _written(value)


def _defaults(settings: Settings) -> dict[str, Any]:
    return {name: _shown(setting.default(settings)) for name, setting in _FIELDS.items()}


def _values(sent: MultiDict[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = dict.fromkeys(_TOLD, "") | {name: sent.get(name, "") for name in (*_SINGLE, *_HANDED)}
    values |= {name: sent.get(name, "") in _YES for name in _BOXES}
    return values | {name: sent.getlist(name) for name in _SEVERAL}


def search_form(given: MultiDict[str, str] | None = None, *, compact: bool = True) -> Asking:
    """The form with the settings in force, and what an address gives beyond them."""
    form = Asking(_defaults(services().settings), compact=compact)
    fill(form, given or MultiDict())
    return form


def fill(form: Asking, given: MultiDict[str, str]) -> None:
    """Put what an address gives over what the form has."""
    clean = MultiDict((name, value.replace("\0", "")) for name, value in given.items(multi=True))
    form.values |= {name: value for name, value in _values(clean).items() if name in clean}


def form_of(search: SearchView) -> Asking:
    """The form filled with an earlier search, to ask it again."""
    settings, asked = services().settings, search.settings
    values = {name: _value(setting, asked, settings) for name, setting in _FIELDS.items()}
    values["tie_decimals"] = _own_decimals(asked, settings)
    values["embedders"] = [name for name in asked.coarse.embedders if name in settings.embedders]
    form = Asking({name: _shown(value) for name, value in values.items()} | {"text": search.text or ""})
    if search.has_picture:
        form.values["again"] = form.values["earlier"] = str(search.id)
    form.notes = _notes(search, settings)
    return form


def _value(setting: Setting, asked: SearchSettings, settings: Settings) -> Any:
    value = setting.of(asked)
    if setting.is_group:
        return value is not None
    # the fields of a group that is off have their defaults
    return setting.default(settings) if value is None and setting.in_optional else value


def _own_decimals(asked: SearchSettings, settings: Settings) -> int | None:
    """The decimals of a search, unless they are those of its mode, which it may be asked again without."""
    usual = settings.tie_decimals if settings.tie_decimals is not None else default_tie_decimals(asked.mode)
    return settings.tie_decimals if asked.tie_decimals == usual else asked.tie_decimals


def _notes(search: SearchView, settings: Settings) -> list[str]:
    gone = [name for name in search.settings.coarse.embedders if name not in settings.embedders]
    notes = [f"{name} found candidates then; it is not in force here any more." for name in gone]
    scorer = public_name(settings.scorer_name)
    if search.scorer != scorer:
        notes.append(f"{search.scorer} judged then; {scorer} judges now.")
    return notes


def request_of(form: Asking) -> SearchRequest:
    """What a sent form asks for.

    Raises:
        InvalidInput: a field can't be accepted; ``detail.fields`` names it.
    """
    asked: dict[str, Any] = form.given("text") | _given(form) | {"injection": _injection(form)}
    if not form.compact:
        asked["adaptive"] = _given(form, "adaptive") if form.values["adaptive"] else False
        asked["coarse"] = _coarse(form)
    if form.text("like"):
        asked["like"] = _like(form)
    try:
        return SearchRequest.model_validate(asked)
    except ValidationError as error:
        raise invalid(error) from error


def _given(form: Asking, *group: str) -> dict[str, Any]:
    """Of the settings of a group, or of none, what the form says; a compact form has no boxes."""
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


def _injection(form: Asking) -> dict[str, Any]:
    """The settings of the re-injection; a layer that stands in the folded form means nothing to the other triggers.

    Raises:
        InvalidInput: the trigger wants a layer, and none is named.
    """
    asked = _given(form, "injection")
    if asked.get("trigger") != "fixed":
        asked.pop("fixed_layer", None)
    elif "fixed_layer" not in asked:
        raise InvalidInput("Name the layer at which the picture comes in, counted from 0.", field="fixed_layer")
    if asked.get("trigger", "entropy") != "entropy":
        asked.pop("start", None)
        asked.pop("end", None)
    return asked


def _coarse(form: Asking) -> dict[str, Any] | None:
    """The sources, or None for those in force: what is in force may differ between collections."""
    asked = {name: form.values[name] for name, setting in _FIELDS.items() if setting.path[0] == "coarse"}
    return None if all(_plain(value) == _plain(form.defaults[name]) for name, value in asked.items()) else asked


def _like(form: Asking) -> dict[str, Any] | None:
    """The item to be like; of a whole form that has none of its parts ticked, none."""
    parts = form.values["like_parts"]
    if not parts and not form.compact:
        return None
    return {"item": form.text("like"), "parts": parts or None}


def earlier_of(form: Asking) -> UUID | None:
    """The search whose picture the form offers, as far as its name is one."""
    try:
        return UUID(form.text("earlier"))
    except ValueError:
        return None
