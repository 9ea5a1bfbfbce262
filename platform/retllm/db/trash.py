"""What is in the trash: the columns of items, and the condition for those that can still be restored.

An item in the trash keeps all that it has, and only its state says so, which every query of ready items compares.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped

from retllm.db.enums import ItemState


class ItemTrash:
    """Columns of an item: when it came into the trash last, and whose request put it there.

    ``kept_until`` is when it will be deleted for good; null unless it is in the trash.
    """

    trashed_at: Mapped[datetime | None]
    trashed_by: Mapped[uuid.UUID | None]
    kept_until: Mapped[datetime | None]


def trash_indexes() -> tuple[sa.Index, ...]:
    """Return the indexes of items in the trash: by collection and time, and by when they are due."""
    trashed = sa.text("state = 'trashed'")
    return (
        sa.Index("ix_items_trash", "collection_id", "trashed_at", "id", postgresql_where=trashed),
        sa.Index("ix_items_kept_until", "kept_until", postgresql_where=sa.text("kept_until IS NOT NULL")),
    )


def is_trashed(item: Any) -> sa.ColumnElement[bool]:
    """Return the condition for items in the trash, as a literal so that the planner can match it to its index."""
    state = sa.literal(ItemState.TRASHED, item.__table__.c.state.type, literal_execute=True)
    trashed: sa.ColumnElement[bool] = item.state == state
    return trashed
