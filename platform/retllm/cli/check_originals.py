"""The check of `retllm doctor` for originals that are not copied: may they be read, and are their folders there?"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.cli.check_workers import Finding, query_database
from retllm.db.enums import ItemState
from retllm.db.tables import Item
from retllm.media.references import root_problem
from retllm.settings import Settings

_ADVICE = (
    "Add the place to RETLLM_IMPORT_ROOTS of the server and all workers, and mount its drive; `retllm doctor --audit` "
    "reads the originals."
)


def inspect_originals(database_url: str, settings: Settings) -> Finding:
    """Return whether the places of all referenced originals can be read from here, with advice if one can't."""

    def query(session: Session) -> list[Finding]:
        places = sa.select(Item.original_root, sa.func.count()).where(
            Item.original_root.is_not(None), Item.state != ItemState.DELETED
        )
        return [_finding(session.execute(places.group_by(Item.original_root)).all(), settings)]

    return query_database(database_url, query)[0]


def _finding(places: Sequence[sa.Row[str | None, int]], settings: Settings) -> Finding:
    counts = {root: count for root, count in places if root is not None}
    problems = {root: root_problem(root, settings.import_roots) for root in counts}
    lost = [f"{root} ({_items(counts[root])}): {problem}" for root, problem in problems.items() if problem]
    if lost:
        return f"Originals that are not stored can't be read: {' '.join(lost)}", _ADVICE
    return f"{sum(counts.values()):,} originals are not stored; the places where they lie can be read.", ""


def _items(count: int) -> str:
    return f"{count:,} {'item' if count == 1 else 'items'}"
