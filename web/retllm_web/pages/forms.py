"""A form as it was sent, with what is wrong with its fields; the shapes themselves are those of the API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flask import request

from retllm.errors import InvalidInput, RetllmError


@dataclass
class Form:
    """Values by field, errors by field; the key ``""`` holds an error of the whole form."""

    values: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    @classmethod
    def sent(cls, several: tuple[str, ...] = ()) -> Form:
        """The form of this request; fields named in ``several`` keep all their values."""
        values: dict[str, Any] = dict(request.form.items())
        return cls(values | {name: request.form.getlist(name) for name in several})

    def text(self, name: str) -> str:
        """A field without the blanks around it; empty if it was not sent.

        Raises:
            InvalidInput: it holds the character NUL, which no text column of PostgreSQL takes.
        """
        value = str(self.values.get(name, "")).strip()
        if "\0" in value:
            raise InvalidInput("A text can't hold the character NUL.", field=name)
        return value

    def given(self, *names: str) -> dict[str, str]:
        """Those of the fields that are not empty."""
        return {name: self.text(name) for name in names if self.text(name)}

    def refuse(self, error: RetllmError, otherwise: str = "") -> None:
        """Put ``error`` beside the field that it names, else beside the field ``otherwise``."""
        named = [one for one in _fields(error.detail) if one["field"] in self.values or one["field"] == otherwise]
        if not named:
            self.errors[otherwise] = error.message
        for one in named:
            told = one.get("message") or error.message
            self.errors[one["field"]] = told.replace("Input should ", "This must ", 1).partition(", unable to parse")[0]


def _fields(detail: Mapping[str, Any]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = list(detail.get("fields") or [])
    if "field" in detail:
        found.append({"field": str(detail["field"])})
    # a form is flat: injection.alpha is its field alpha, and kinds.0 its field kinds
    return [one | {"field": _flat(one["field"])} for one in found]


def _flat(name: str) -> str:
    parts = [part for part in name.split(".") if not part.isdigit()]
    return parts[-1] if parts else ""
