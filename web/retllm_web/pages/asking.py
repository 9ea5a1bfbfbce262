"""The form to search, wherever it stands: empty, out of an address, or out of an earlier search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from retllm.db.enums import ItemKind
from retllm.fine.decision import default_tie_decimals
from retllm.jobs.schemas import SearchRequest, SearchView
from retllm_web.errors import invalid
from retllm_web.pages.forms import Form
from retllm_web.services import services

_PLAIN = ("text", "k", "query_image_weight", "tie_decimals")
_INJECTION = ("alpha", "trigger", "tau", "fixed_layer")


def search_form(given: Mapping[str, str] | None = None) -> Form:
    """The form with the settings in force, and what an address gives beyond them."""
    settings = services().settings
    decimals = settings.tie_decimals
    values: dict[str, Any] = {
        "k": min(settings.default_k, settings.max_k),
        "kinds": [kind.value for kind in ItemKind],
        "query_image_weight": settings.query_image_weight,
        "alpha": settings.alpha,
        "trigger": settings.trigger,
        "tau": settings.tau,
        "tie_decimals": default_tie_decimals(settings.mode) if decimals is None else decimals,
    }
    asked = {name: given[name] for name in (*_PLAIN, *_INJECTION) if given and name in given}
    return Form(values | asked)


def form_of(search: SearchView) -> Form:
    """The form filled with an earlier search, to ask it again."""
    values: dict[str, Any] = {
        "text": search.text or "",
        "k": search.k,
        "kinds": [kind.value for kind in search.kinds],
        "query_image_weight": search.query_image_weight,
        "tie_decimals": search.tie_decimals,
    }
    values |= {name: search.injection.get(name) for name in _INJECTION if search.injection.get(name) is not None}
    if search.has_picture:
        values["again"] = str(search.id)
    return Form(values)


def request_of(form: Form) -> SearchRequest:
    """What a sent form asks for.

    Raises:
        InvalidInput: a field can't be accepted; ``detail.fields`` names it.
    """
    asked: dict[str, Any] = dict(form.given(*_PLAIN))
    asked["injection"] = form.given(*_INJECTION)
    if asked["injection"].get("trigger") != "fixed":
        # a layer that stands in the folded form means nothing to the other triggers
        asked["injection"].pop("fixed_layer", None)
    if form.values.get("kinds"):
        asked["kinds"] = form.values["kinds"]
    try:
        return SearchRequest.model_validate(asked)
    except ValidationError as error:
        raise invalid(error) from error
