"""Filters as conditions in SQL.

Each comparison is true or false: what is not known is not equal to anything, and ``not`` turns that around.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, array

from retllm.db.facts import folded, folded_all, folded_cells
from retllm.db.maps import MapPoint
from retllm.db.tables import Item
from retllm.errors import InvalidInput
from retllm.filters import values
from retllm.filters.expression import And, Compare, Expression, Field, Has, Not, Or
from retllm.filters.fields import OPERATORS, FieldInfo, FieldKind, info_of

Condition: TypeAlias = sa.ColumnElement[bool]

_ORDER: Mapping[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_NUMBER = r"^\s*[-+]?[0-9]+(\.[0-9]+)?\s*$"


def condition(expression: Expression) -> Condition:
    """Return the condition on :class:`retllm.db.tables.Item` for items that match.

    Raises:
        InvalidInput: a field is not there, or is compared with what it can't be.
    """
    match expression:
        case And(parts):
            return sa.and_(*map(condition, parts))
        case Or(parts):
            return sa.or_(*map(condition, parts))
        case Not(part):
            return sa.not_(sa.func.coalesce(condition(part), sa.false()))
        case Has(field):
            return _has(field, info_of(field))
        case Compare(field, "!=", given):
            return condition(Not(Compare(field, "=", given)))
    return _compared(expression, info_of(expression.field))


def _has(field: Field, info: FieldInfo) -> Condition:
    if field.is_column:
        there: Condition = folded_cells(Item.further).op("?", is_comparison=True)(folded(field.name))
        return there
    if info.kind is FieldKind.TAGS:
        return sa.func.cardinality(Item.tags) > 0
    if info.kind in (FieldKind.TEXT, FieldKind.PATH):
        return sa.func.nullif(info.column(), "").is_not(None)
    column = info.column()[0] if info.kind is FieldKind.TIME else info.column()
    found: Condition = column.is_not(None)
    return found


def _compared(part: Compare, info: FieldInfo) -> Condition:
    allowed = OPERATORS[info.kind]
    if part.operator not in allowed:
        raise InvalidInput(
            f"{part.field} can't be compared with {part.operator}, only {', '.join(allowed)}.", field="filter"
        )
    if part.operator == "in":
        return sa.or_(*(_compared(Compare(part.field, "=", (value,)), info) for value in part.values))
    return _KINDS[info.kind](part, info)


def _text(part: Compare, info: FieldInfo) -> Condition:
    (value,) = part.values
    column = folded(info.column())
    return column == folded(value) if part.operator == "=" else sa.func.strpos(column, folded(value)) > 0


def _path(part: Compare, info: FieldInfo) -> Condition:
    (value,) = part.values
    if part.operator == "=":
        found: Condition = info.column() == values.folder(value)
        return found
    return sa.func.starts_with(info.column(), value.lstrip("/"))


def _choice(part: Compare, info: FieldInfo) -> Condition:
    found: Condition = info.column() == values.word(part.values[0], str(part.field), info.words)
    return found


def _number(part: Compare, info: FieldInfo) -> Condition:
    number = values.number(part.values[0], str(part.field))
    # of a type of its own: that of a small column can't have every number, and rounds it
    value = sa.literal(number, sa.BigInteger() if isinstance(number, int) else sa.Double())
    found: Condition = {**_ORDER, "=": operator.eq}[part.operator](info.column(), value)
    return found


def _time(part: Compare, info: FieldInfo) -> Condition:
    """Compare times that are known as precisely as they are: each is all of its year, day or second.

    Equal is what lies within the given one; before it is what has ended when it begins.
    """
    begin, end = values.span(part.values[0], str(part.field))
    since, until = info.column()
    conditions: Mapping[str, Condition] = {
        # the first condition of two is the one of the index
        "=": sa.and_(since >= begin, since < end, until <= end),
        "<": sa.and_(since < begin, until <= begin),
        "<=": sa.and_(since < end, until <= end),
        ">": since >= end,
        ">=": since >= begin,
    }
    return conditions[part.operator]


def _tags(part: Compare, _: FieldInfo) -> Condition:
    wanted = array([folded(value) for value in part.values])
    tags = folded_all(Item.tags)
    return tags.contains(wanted) if part.operator == "all" else tags.overlap(wanted)


def _place(part: Compare, _: FieldInfo) -> Condition:
    south, west, north, east = values.box(part.values, str(part.field))
    sides = (Item.longitude >= west, Item.longitude <= east)
    between = sa.and_(*sides) if west <= east else sa.or_(*sides)
    return sa.and_(Item.latitude >= south, Item.latitude <= north, between)


def _on_map(part: Compare, _: FieldInfo) -> Condition:
    """Compare places on the map with a box, or with the inside of a line of three points or more."""
    points = values.outline(part.values, str(part.field))
    (left, top), (right, bottom) = values.bounds(points)
    # the box of a line too, which has an index
    inside = [MapPoint.item_id == Item.id, MapPoint.x.between(left, right), MapPoint.y.between(top, bottom)]
    if len(points) > 2:
        outline = sa.cast(",".join(f"({x:g},{y:g})" for x, y in points), _Polygon)
        inside.append(sa.func.point(MapPoint.x, MapPoint.y).op("<@", is_comparison=True)(outline))
    return sa.exists(MapPoint.item_id).where(*inside).correlate(Item)


class _Polygon(sa.types.UserDefinedType[str]):
    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "polygon"


def _cell(part: Compare, info: FieldInfo) -> Condition:
    """Compare numbers as such where the order matters; the equality of cells is that of texts, as 007 is not 7."""
    (value,) = part.values
    compare = _ORDER.get(part.operator)
    cell = info.column()
    if part.operator == "=":
        cells = folded_cells(Item.further)
        # as the index has it
        return cells.contains(sa.func.jsonb_build_object(folded(part.field.name), folded(value), type_=JSONB))
    if compare is None:
        return sa.func.strpos(cell, folded(value)) > 0
    found: Condition
    if (limit := values.as_number(value)) is None:
        found = compare(cell, folded(value))
    else:
        # a cell may be a number that is too large for any other type
        number = sa.literal(Decimal(str(limit)), sa.Numeric())
        found = compare(sa.case((cell.op("~")(_NUMBER), sa.cast(cell, sa.Numeric))), number)
    return found


_KINDS: Mapping[FieldKind, Callable[[Compare, FieldInfo], Condition]] = {
    FieldKind.TEXT: _text,
    FieldKind.PATH: _path,
    FieldKind.CHOICE: _choice,
    FieldKind.NUMBER: _number,
    FieldKind.TIME: _time,
    FieldKind.TAGS: _tags,
    FieldKind.PLACE: _place,
    FieldKind.MAP: _on_map,
    FieldKind.COLUMN: _cell,
}
