"""A submitted form with the errors of its fields; the API's models validate it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flask import request

from retllm.errors import InvalidInput, RetllmError


@dataclass
class Form:
    """Values and errors by field; the error under ``""`` is of the whole form."""

    values: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    @classmethod
    def sent(cls, several: tuple[str, ...] = ()) -> Form:
        """Return the form of this request; fields named in ``several`` keep all their values."""
        values: dict[str, Any] = dict(request.form.items())
        return cls(values | {name: request.form.getlist(name) for name in several})

    def text(self, name: str) -> str:
        """Return a field without surrounding whitespace; empty if it was not sent.

        Raises:
            InvalidInput: it contains the character NUL, which PostgreSQL cannot store.
        """
        value = str(self.values.get(name, "")).strip()
        if "\0" in value:
            raise InvalidInput("A text cannot contain the character NUL.", field=name)
        return value

    def given(self, *names: str) -> dict[str, str]:
        """Return the named fields that are not empty."""
        return {name: self.text(name) for name in names if self.text(name)}

    def refuse(self, error: RetllmError, otherwise: str = "") -> None:
        """Attach ``error`` to the fields that it names, else to the field ``otherwise``."""
        named = [
            entry for entry in _fields(error.detail) if entry["field"] in self.values or entry["field"] == otherwise
        ]
        if not named:
            self.errors[otherwise] = error.message
        for entry in named:
            text = (entry.get("message") or error.message).replace("Input should ", "This must ", 1)
            self.errors[entry["field"]] = text.partition(", unable to parse")[0]


def _fields(detail: Mapping[str, Any]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = list(detail.get("fields") or [])
    if "field" in detail:
        found.append({"field": str(detail["field"])})
    # a form is flat: injection.alpha is its field alpha, and kinds.0 its field kinds
    return [entry | {"field": _flat(entry["field"])} for entry in found]


def _flat(name: str) -> str:
    parts = [part for part in name.split(".") if not part.isdigit()]
    return parts[-1] if parts else ""
