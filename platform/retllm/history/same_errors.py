"""Equal errors of the units of a job, told once with their number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from retllm.db.enums import UnitState

MAX_ERRORS = 20
"""The view of a job has the errors of at most so many units."""


def same_errors(errors: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the errors of a job's view, equal ones as one with its number of units: ``count``, and ``units`` in words.

    If the view is full, there may be more units, and the words say "at least".
    """
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for error in errors:
        key = (error["stage"], error["state"] == UnitState.DEAD, error["waits"] or error["attempt"], error["error"])
        group = groups.setdefault(key, error | {"count": 0})
        group["count"] += 1
    least = "" if len(errors) < MAX_ERRORS else "at least "
    for group in groups.values():
        group["units"] = f"{least}{group['count']} {'unit' if group['count'] == 1 else 'units'}"
    return list(groups.values())
