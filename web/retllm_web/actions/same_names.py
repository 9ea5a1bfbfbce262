"""The archives of items whose names alone do not tell them apart in a list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from uuid import UUID


def archives(listed: Iterable[tuple[UUID, str, str | None]]) -> Mapping[UUID, str]:
    """Return for the items of a list that share their name with another the archive that each came in, if any.

    Args:
        listed: the key, the name and the archive of each.
    """
    items = list(listed)
    times = Counter(name for _, name, _ in items)
    return {key: archive for key, name, archive in items if archive is not None and times[name] > 1}
