"""Filters as lists of parts that all must match, to which a part is added and from which one is taken away."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import NamedTuple, TypeGuard

from retllm.filters import values
from retllm.filters.expression import And, Compare, Expression, Field


def parts_of(expression: Expression | None) -> tuple[Expression, ...]:
    """Return the parts of a filter that all must match; a filter of another form is one part."""
    if expression is None:
        return ()
    return expression.parts if isinstance(expression, And) else (expression,)


def all_of(parts: Iterable[Expression]) -> Expression | None:
    """Return the filter that matches where all of these do; None if there are none."""
    found = tuple(parts)
    if len(found) > 1:
        return And(found)
    return found[0] if found else None


def narrowed(expression: Expression | None, part: Expression) -> Expression:
    """Return a filter with a further part, without those parts that match whenever the further one does."""
    kept = [old for old in parts_of(expression) if not _follows(old, part)]
    return all_of((*kept, part)) or part


def without(expression: Expression | None, part: Expression) -> Expression | None:
    """Return a filter without one of its parts."""
    return all_of(old for old in parts_of(expression) if old != part)


def compares(part: Expression, name: str, operators: Collection[str]) -> TypeGuard[Compare]:
    """Return whether a part of a filter compares this field by one of these operators."""
    return isinstance(part, Compare) and part.field == Field(name) and part.operator in operators


def _follows(old: Expression, new: Expression) -> bool:
    """Return whether the new part implies the old one, of times and of folders within each other."""
    if old == new:
        return True
    if not (isinstance(old, Compare) and isinstance(new, Compare) and old.field == new.field):
        return False
    if old.field == Field("folder") and old.operator == "~" and new.operator in ("~", "="):
        inner = new.values[0].lstrip("/") if new.operator == "~" else values.folder(new.values[0])
        return inner.startswith(old.values[0].lstrip("/"))
    if old.field == Field("taken"):
        outer, limits = _limits(old), _limits(new)
        return outer is not None and limits is not None and limits.are_within(outer)
    return False


class _Limits(NamedTuple):
    """When a time begins at the earliest and ends at the latest; None if there is no limit."""

    low: datetime | None
    high: datetime | None

    def are_within(self, outer: _Limits) -> bool:
        is_low = outer.low is None or (self.low is not None and self.low >= outer.low)
        return is_low and (outer.high is None or (self.high is not None and self.high <= outer.high))


def _limits(part: Compare) -> _Limits | None:
    if part.operator not in ("=", "<", "<=", ">", ">="):
        return None
    begin, end = values.span(part.values[0], str(part.field))
    limits = {
        "=": _Limits(begin, end),
        "<": _Limits(None, begin),
        "<=": _Limits(None, end),
        ">": _Limits(end, None),
        ">=": _Limits(begin, None),
    }
    return limits[part.operator]
