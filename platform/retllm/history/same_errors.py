"""Equal errors of the units of a job, or of the candidates of a search, told once with their number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from retllm.db.enums import UnitState

MAX_ERRORS = 20
"""The view of a job has the errors of at most so many units."""


MAX_SHOWN = 5
"""Maximum number of items that are named beside one error."""


def without_name(error: str, names: Iterable[str]) -> str:
    """Return an error without the name of an item at its beginning, for where the name is shown beside it."""
    return next((error.removeprefix(start) for name in names if error.startswith(start := f"{name}: ")), error)


def names_and_more(names: Sequence[str], number: int) -> str:
    """Return the names of some of a number of items: "a.jpg, b.jpg and 62 more"."""
    return ", ".join(names) + (f" and {number - len(names):,} more" if names and number > len(names) else "")


def shared_errors(errors: Iterable[str | None]) -> dict[str, int]:
    """Return the errors that several candidates have, each with their number."""
    return {error: count for error, count in Counter(errors).items() if error is not None and count > 1}


def same_errors(errors: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the errors of a job's view, equal ones as one with its number of units: ``count``, and ``units`` in words.

    The time until which they wait is that of the last one. ``about`` has the first items or files of them all, of
    which the error does not repeat the name; ``items`` is the number of all.

    If the view is full, there may be more units, and the words say "at least".
    """
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for error in errors:
        # a server of an older release does not tell what a unit is about
        about = error.get("about", [])
        text = without_name(error["error"], [one["name"] for one in about])
        key = (error["stage"], error["state"] == UnitState.DEAD, error["waits"] or error["attempt"], text)
        group = groups.setdefault(key, error | {"error": text, "about": [], "items": 0, "count": 0})
        group["about"] += about[: MAX_SHOWN - len(group["about"])]
        group["items"] += error.get("items", 0)
        group["count"] += 1
        if error.get("waits_until"):
            group["waits_until"] = max(group["waits_until"], error["waits_until"])
    least = "" if len(errors) < MAX_ERRORS else "at least "
    for group in groups.values():
        group["units"] = f"{least}{group['count']} {'unit' if group['count'] == 1 else 'units'}"
    return list(groups.values())
