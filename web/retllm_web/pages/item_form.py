"""The form that changes an item: what it shows, and what of that the user has changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from flask import request
from pydantic import ValidationError

from retllm.errors import InvalidInput
from retllm.media.facts import line
from retllm_web.actions.item_changes import ItemChange
from retllm_web.actions.item_views import ItemView
from retllm_web.http.errors import invalid
from retllm_web.pages.forms import Form

_TEXTS = ("name", "text", "title", "taken", "camera", "lens")
_PLACE = ("latitude", "longitude")


def form_of(item: ItemView) -> Form:
    """Return the form with the values of an item.

    It also has them as ``was``, which the browser sends back: only what the user has changed is written, so that two
    people who change different things of an item at the same time both succeed.
    """
    values = {
        **{name: getattr(item, name) or "" for name in _TEXTS},
        "tags": "\n".join(item.tags),
        "rating": str(item.rating or ""),
        **{name: str(getattr(item.position, name)) if item.position else "" for name in _PLACE},
        "columns": [[name, cell] for name, cell in item.columns.items()],
    }
    return Form({**values, "was": json.dumps(values)})


def sent_form() -> Form:
    """Return the form of this request."""
    form = Form.sent()
    rows = zip(request.form.getlist("column"), request.form.getlist("cell"), strict=False)
    form.values["columns"] = [list(row) for row in rows if any(row)]
    return form


def change_of(form: Form) -> dict[str, Any]:
    """Return what the user has changed, as :func:`retllm.media.editing.change_item` takes it.

    Raises:
        InvalidInput: a value is not what it must be; the detail names its field.
    """
    was = _was(form)
    changed = {name for name in (*_TEXTS, "tags", "rating", *_PLACE) if _is_changed(form, was, name)}
    texts = {name: form.text(name) for name in (*_TEXTS, "rating") if name in changed}
    if texts.get("name") == "":
        raise InvalidInput("An item needs a name.", field="name")
    values: dict[str, Any] = {name: text or None for name, text in texts.items()}
    if "tags" in changed:
        values["tags"] = form.text("tags").splitlines()
    if changed.intersection(_PLACE):
        values["position"] = _position(form)
    if "column" in form.values and (columns := _columns(form)) != was.get("columns"):
        values["columns"] = columns
    try:
        return ItemChange(**values).given()
    except ValidationError as error:
        raise invalid(error) from error


def _was(form: Form) -> Mapping[str, Any]:
    """Return the values that the form had before; none if they are unreadable, so that all of them count as changed."""
    with suppress(ValueError, TypeError, RecursionError):
        before = json.loads(str(form.values.get("was", "")))
        texts = {name: _plain(text) for name, text in before.items() if isinstance(text, str)}
        return {**texts, "columns": dict(before["columns"])}
    return {}


def _is_changed(form: Form, was: Mapping[str, Any], name: str) -> bool:
    return name in form.values and _plain(form.values[name]) != was.get(name)


def _plain(text: Any) -> str:
    # browsers send CR LF between lines
    return "\n".join(str(text or "").splitlines()).strip()


def _position(form: Form) -> dict[str, float] | None:
    if not form.given(*_PLACE):
        return None
    found = {}
    for name in _PLACE:
        try:
            found[name] = float(form.text(name))
        except ValueError as error:
            raise InvalidInput("Write both in degrees, such as 48.2082 and 16.3738.", field=name) from error
    return found


def _columns(form: Form) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, cell in form.values["columns"]:
        if "\0" in name + cell:
            raise InvalidInput("A text cannot contain the character NUL.", field="columns")
        name, cell = line(name) or "", cell.strip()
        if cell and not name:
            raise InvalidInput(f"The column with “{cell[:50]}” needs a name.", field="columns")
        if cell and name in found:
            raise InvalidInput(f"Two columns have the name “{name}”.", field="columns")
        if cell:
            found[name] = cell
    return found
