"""The parts of a filter; ``str()`` of each is a filter that is read as the same again."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

_BARE = re.compile(r"[\w.+:-]+")
_WORD = re.compile(r"[A-Za-z_]\w*")
_RESERVED = frozenset(("and", "or", "not", "has", "in", "any", "all", "within"))


def quoted(value: str) -> str:
    """Return a value as a filter has it: in quotes if it is more than one word."""
    if _BARE.fullmatch(value) and value.lower() not in _RESERVED:
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


@dataclass(frozen=True, slots=True)
class Field:
    """A field of an item, or with ``is_column`` one of its further columns."""

    name: str
    is_column: bool = False

    def __str__(self) -> str:
        if not self.is_column:
            return self.name
        is_word = _WORD.fullmatch(self.name) and self.name.lower() not in _RESERVED
        return f"column.{self.name if is_word else _always_quoted(self.name)}"


def _always_quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


@dataclass(frozen=True, slots=True)
class Compare:
    """A comparison of a field: ``=``, ``!=``, ``<``, ``<=``, ``>``, ``>=`` and ``~`` have one value.

    ``in``, ``any`` and ``all`` have several, ``within`` four: south, west, north and east in degrees.
    """

    field: Field
    operator: str
    values: tuple[str, ...]

    def __str__(self) -> str:
        if self.operator in ("in", "any", "all", "within"):
            return f"{self.field} {self.operator} ({', '.join(map(quoted, self.values))})"
        return f"{self.field} {self.operator} {quoted(self.values[0])}"


@dataclass(frozen=True, slots=True)
class Has:
    """Whether an item has a value of a field."""

    field: Field

    def __str__(self) -> str:
        return f"has {self.field}"


@dataclass(frozen=True, slots=True)
class Not:
    """Whether a filter does not match."""

    part: Expression

    def __str__(self) -> str:
        return f"not {_grouped(self.part)}"


@dataclass(frozen=True, slots=True)
class And:
    """Whether all of some filters match."""

    parts: tuple[Expression, ...]

    def __str__(self) -> str:
        return " and ".join(map(_grouped, self.parts))


@dataclass(frozen=True, slots=True)
class Or:
    """Whether at least one of some filters matches."""

    parts: tuple[Expression, ...]

    def __str__(self) -> str:
        return " or ".join(map(_grouped, self.parts))


Expression: TypeAlias = Compare | Has | Not | And | Or


def fields_of(expression: Expression | None) -> set[Field]:
    """Return the fields that a filter names."""
    waiting: list[Expression] = [] if expression is None else [expression]
    found: set[Field] = set()
    while waiting:
        match waiting.pop():
            case Not(inner):
                waiting.append(inner)
            case And(parts) | Or(parts):
                waiting += parts
            case Compare(field) | Has(field):
                found.add(field)
    return found


def _grouped(part: Expression) -> str:
    return f"({part})" if isinstance(part, And | Or) else str(part)
