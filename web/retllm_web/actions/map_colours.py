"""By which groups the points of a map are coloured: the most frequent values of a field, or ranges of its numbers."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import sqlalchemy as sa

from retllm.db.facts import folded
from retllm.db.tables import Item
from retllm.errors import InvalidInput
from retllm.filters import Compare, Expression, Field, Has, Not, parse
from retllm.filters.fields import FieldInfo, FieldKind, info_of
from retllm.filters.values import as_number

FIELDS = (
    *("taken", "camera", "lens", "folder", "tags", "kind", "rating", "added", "shape"),
    *("width", "height", "size", "duplicates"),
)
"""The fields that points can be coloured by, beside further columns. Positions are not among them."""
DEFAULT = "taken"
MOST = 8
"""Groups with a colour of their own at most."""
_YEARS = ("taken", "added")
_ACCENTS = re.compile("[\u0300-\u036f]+")

Number: TypeAlias = int | float


@dataclass(frozen=True)
class Group:
    """Points of one colour.

    Attributes:
        label: for people.
        count: how many of the sample.
        parts: of a filter, which all match exactly the items of the group; none if no filter does.
    """

    label: str
    count: int
    parts: tuple[Expression, ...] = ()


@dataclass(frozen=True)
class Colours:
    """Which group a value is in.

    Attributes:
        groups: first those with a colour of their own, then that of all other values, then that of items without one.
        ordered: whether the groups are numbers in their order, and not names.
        upper: the largest number of each group, if they are ranges.
        places: the group of each value, if they are not.
    """

    field: Field
    groups: Sequence[Group]
    ordered: bool
    upper: Sequence[Number] = ()
    places: Mapping[Any, int] | None = None

    @property
    def other(self) -> int:
        """The group of values that have none of their own."""
        return len(self.groups) - 2

    def group_of(self, value: Any) -> int:
        """Return the group of an item with this value; of several values, the most frequent one decides."""
        texts = [folded_key(one) for one in _several(value)]
        if not texts:
            return len(self.groups) - 1
        if self.places is not None:
            return min(self.places.get(text, self.other) for text in texts)
        number = _number(texts[0])
        if number is None:
            return self.other
        # later pages may have larger numbers than the sample
        return min(int(np.searchsorted(self.upper, number)), self.other - 1)

    def mark(self, group: int) -> str:
        """Return the name of the colour of a group."""
        if group >= self.other:
            return ("other", "unknown")[group - self.other]
        return f"{'o' if self.ordered else 'c'}{group * _step(self.other, self.ordered) + 1}"


def _step(groups: int, ordered: bool) -> int:
    """Return how many colours to go on from one group to the next, so that few ordered ones differ well."""
    return max(1, (MOST - 1) // max(1, groups - 1)) if ordered else 1


def field_of(text: str) -> Field:
    """Return the field that a text names, such as ``camera`` or ``column.Place``; the default one if it is empty.

    Raises:
        InvalidInput: points can't be coloured by that.
    """
    try:
        found = parse(f"has {text or DEFAULT}")
    except InvalidInput:
        found = None
    if isinstance(found, Has) and (found.field.is_column or found.field.name in FIELDS):
        return found.field
    raise InvalidInput(
        f"A map can't be coloured by {text!r}, only by {', '.join(FIELDS)}, and column.NAME.", field="colour"
    )


def value_of(field: Field) -> sa.ColumnElement[Any]:
    """Return the column with the values of a field; years of times."""
    info = info_of(field)
    if field.is_column:
        # the cell as it is written, and not as filters compare it
        cell = sa.func.jsonb_each_text(Item.further).table_valued("key", "value")
        return sa.select(cell.c.value).where(folded(cell.c.key) == folded(field.name)).limit(1).scalar_subquery()
    if info.kind is FieldKind.TIME:
        year: sa.ColumnElement[Any] = sa.cast(sa.extract("year", info.column()[0]), sa.Integer)
        return year
    column: Any = Item.tags if info.kind is FieldKind.TAGS else info.column()
    return sa.func.nullif(column, "") if info.kind in (FieldKind.TEXT, FieldKind.PATH) else column


def colours_of(field: Field, values: Sequence[Any]) -> Colours:
    """Return the groups of a field whose values these are, of a sample of the points; None is that of no value."""
    listed = [list(_several(value)) for value in values]
    unknown = Group("not known", sum(not one for one in listed), (Not(Has(field)),))
    present = [one for some in listed for one in some]
    numbers = [_number(one) for one in present] if info_of(field).kind in _COUNTED else [None]
    if present and None not in numbers and len(set(numbers)) > MOST:
        return _ranges(field, [number for number in numbers if number is not None], unknown)
    return _values(field, present, unknown, ordered=None not in numbers)


_COUNTED = (FieldKind.NUMBER, FieldKind.TIME, FieldKind.COLUMN)


def _values(field: Field, present: Sequence[Any], unknown: Group, *, ordered: bool) -> Colours:
    counts = Counter(map(folded_key, present))
    shown: dict[Any, Any] = {}
    for value in present:
        shown.setdefault(folded_key(value), value)
    chosen = [key for key, _ in sorted(counts.items(), key=lambda one: (-one[1], str(one[0])))[:MOST]]
    if ordered:
        chosen.sort(key=lambda key: _number(key) or 0)
    groups = [Group(_label(field, shown[key]), counts[key], _equal(field, shown[key])) for key in chosen]
    other = Group("other", counts.total() - sum(counts[key] for key in chosen))
    places = {key: place for place, key in enumerate(chosen)}
    return Colours(field, [*groups, other, unknown], ordered, places=places)


def _ranges(field: Field, numbers: Sequence[Number], unknown: Group) -> Colours:
    """Return groups of about as many items each."""
    ordered = np.sort(np.array(numbers))
    ends = np.unique(ordered[np.linspace(0, len(ordered), MOST + 1).round().astype(int)[1:] - 1])
    groups = list(_between(field, ordered, ends))
    return Colours(field, [*groups, Group("other", 0), unknown], ordered=True, upper=ends.tolist())


def _between(field: Field, numbers: Any, ends: Any) -> Iterator[Group]:
    start = 0
    parts: list[Expression] = []
    for end in ends:
        stop = int(np.searchsorted(numbers, end, side="right"))
        low, high = numbers[start].item(), numbers[stop - 1].item()
        label = _label(field, low) if low == high else f"{_label(field, low)} – {_label(field, high)}"
        # the first and the last one are open, since the sample may lack the least and the largest numbers
        below = [Compare(field, "<=", (_text(field, high),))] if end != ends[-1] else []
        yield Group(label, stop - start, (*parts, *below))
        parts = [Compare(field, ">", (_text(field, high),))]
        start = stop


def _several(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        yield from value
    elif value is not None:
        yield value


def folded_key(value: Any) -> Any:
    """Return what equal values have in common: upper and lower case and accents make no difference, as for filters."""
    if not isinstance(value, str):
        return value
    return _ACCENTS.sub("", unicodedata.normalize("NFD", value)).lower()


def _number(value: Any) -> Number | None:
    return as_number(value) if isinstance(value, str) else value


def _text(field: Field, value: Any) -> str:
    return f"{value:04}" if field.name in _YEARS and not field.is_column else str(value)


def _label(field: Field, value: Any) -> str:
    if isinstance(value, str) or (field.name in _YEARS and not field.is_column):
        return _text(field, value)
    return f"{value} of 5" if field == Field("rating") else f"{value:,}"


def _equal(field: Field, value: Any) -> tuple[Expression, ...]:
    return (Compare(field, "=", (_text(field, value),)),)


def title_of(field: Field) -> str:
    """Return what a field is called for people."""
    info: FieldInfo = info_of(field)
    return (
        {"taken": "Year taken", "added": "Year added"}.get(field.name, info.title)
        if not field.is_column
        else field.name
    )
