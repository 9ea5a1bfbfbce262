"""What JSON may have and no row of a sheet can: keys that occur more than once, and numbers without end."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

# ids have fewer; Python takes long to read very long ones, and refuses them from some length on
_MAX_DIGITS = 100


class Repeated(list[object]):
    """The values of a key that an object has more than once."""


def put(members: dict[str, object], key: str, value: object) -> None:
    """Add a member to an object; further values of the same key are kept beside the first one."""
    if key not in members:
        members[key] = value
        return
    known = members[key]
    if not isinstance(known, Repeated):
        known = members[key] = Repeated([known])
    known.append(value)


def integer(digits: str) -> int | float:
    """Return a whole number; an infinite one for one that is too long to mean anything."""
    return int(digits) if 0 < len(digits) <= _MAX_DIGITS else math.inf


def loads(text: str) -> Any:
    """Return what JSON says, with all values of repeated keys.

    Raises:
        ValueError: it is not valid.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_members, parse_int=integer)


def _members(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
    made: dict[str, object] = {}
    for key, value in pairs:
        put(made, key, value)
    return made
