"""The values of comparisons, read as what their fields are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from math import isfinite
from typing import NamedTuple, TypeAlias

from retllm.db.facts import end_of
from retllm.db.maps import SIDE
from retllm.errors import InvalidInput

_TIME = re.compile(
    r"(?P<year>\d{4})(?:-(?P<month>\d\d)(?:-(?P<day>\d\d)"
    r"(?:[T ](?P<hour>\d\d):(?P<minute>\d\d)(?::(?P<second>\d\d))?)?)?)?"
)
_LIMITS = (90, 180, 90, 180)
_MAX_POINTS = 100

Point: TypeAlias = tuple[float, float]
"""A place on a map, from the left and from the top."""


class Span(NamedTuple):
    """A time as precise as it was given: from ``begin`` until before ``end``."""

    begin: datetime
    end: datetime


class Box(NamedTuple):
    """A part of the Earth in degrees; with ``west`` above ``east`` it crosses the meridian of 180 degrees."""

    south: float
    west: float
    north: float
    east: float


def number(text: str, field: str) -> int | float:
    """Read a number.

    Raises:
        InvalidInput: it is none.
    """
    value = as_number(text)
    if value is None:
        raise _refused(field, text, "a number")
    return value


def as_number(text: str) -> int | float | None:
    """Return a finite number; None if the text is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    if not isfinite(value):
        return None
    # an index of whole numbers is of no use to others
    return int(value) if value.is_integer() and abs(value) < 1 << 53 else value


def span(text: str, field: str) -> Span:
    """Read a year, month, day, minute or second.

    Raises:
        InvalidInput: it is none.
    """
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise _refused(field, text, "a time such as 1998, 1998-05, 1998-05-31 or 1998-05-31T14:30")
    given = {name: int(part) for name, part in found.groupdict().items() if part is not None}
    try:
        begin = datetime(1, 1, 1).replace(**given)  # type: ignore[arg-type]  # no zone
        return Span(begin, end_of(begin, len(given)))
    except (ValueError, OverflowError) as error:
        raise _refused(field, text, "a time that exists") from error


def box(texts: tuple[str, ...], field: str) -> Box:
    """Read a part of the Earth.

    Raises:
        InvalidInput: it is none.
    """
    if len(texts) != len(_LIMITS):
        raise InvalidInput(f"{field} within needs four numbers: south, west, north, east in degrees.", field="filter")
    numbers = [number(text, field) for text in texts]
    for value, limit in zip(numbers, _LIMITS, strict=True):
        if abs(value) > limit:
            raise _refused(field, f"{value:g}", f"between -{limit} and {limit} degrees")
    found = Box(*map(float, numbers))
    if found.south > found.north:
        raise InvalidInput(f"{field} within needs south before north.", field="filter")
    return found


def outline(texts: tuple[str, ...], field: str) -> list[Point]:
    """Read an area of a map: two opposite corners of a box, or three points or more that go around it.

    Raises:
        InvalidInput: it is none.
    """
    numbers = [float(number(text, field)) for text in texts]
    points = list(zip(numbers[::2], numbers[1::2], strict=False))
    if len(numbers) % 2 or not 2 <= len(points) <= _MAX_POINTS:
        raise InvalidInput(
            f"{field} within needs left, top, right, bottom of a box, or x and y of 3 to {_MAX_POINTS} points around "
            "an area.",
            field="filter",
        )
    for value in numbers:
        if not 0 <= value <= SIDE:
            raise _refused(field, f"{value:g}", f"between 0 and {SIDE}")
    return points


def bounds(points: Sequence[Point]) -> tuple[Point, Point]:
    """Return the left top and the right bottom corner of the box around points."""
    across, down = zip(*points, strict=True)
    return (min(across), min(down)), (max(across), max(down))


def word(text: str, field: str, words: tuple[str, ...]) -> str:
    """Read one of some words.

    Raises:
        InvalidInput: it is none of them.
    """
    if text.lower() not in words:
        raise _refused(field, text, f"one of {', '.join(words)}")
    return text.lower()


def folder(text: str) -> str:
    """Return a folder as the items have it: with a slash at its end, the outermost one empty."""
    inner = text.strip("/")
    return f"{inner}/" if inner else ""


def _refused(field: str, text: str, what: str) -> InvalidInput:
    return InvalidInput(f"{field} can't be compared with {text!r}, which is not {what}.", field="filter")
