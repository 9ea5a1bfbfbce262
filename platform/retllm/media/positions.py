"""Where items were made, in collections that do not keep it (:class:`retllm.db.enums.Positions`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import ItemState, Positions
from retllm.db.tables import Collection, Item
from retllm.errors import Conflict

NO_POSITION: Mapping[str, Any] = {"latitude": None, "longitude": None}
"""The columns of an item of which nobody knows where it was made."""
BATCH = 1000
"""Maximum of items whose positions one transaction erases."""


def are_kept(session: Session, collection_id: UUID) -> bool:
    """Return whether a collection, which the caller has locked, keeps where its items were made."""
    kept = session.scalar(sa.select(Collection.positions).where(Collection.id == collection_id))
    return kept is not Positions.NOBODY


def require_kept(session: Session, collection_id: UUID) -> None:
    """Require that a collection, which the caller has locked, keeps positions.

    Raises:
        Conflict: it does not.
    """
    if not are_kept(session, collection_id):
        raise Conflict("This collection keeps no positions: its owner can change that on the page of its members.")


def erase(session: Session) -> int:
    """Erase positions in collections that keep none, those of at most ``BATCH`` items; return of how many.

    Items that others have locked are passed over.
    """
    some = (
        sa.select(Item.id)
        .join(Collection, Collection.id == Item.collection_id)
        .where(Collection.positions == Positions.NOBODY, Item.latitude.is_not(None), Item.state == ItemState.READY)
        .limit(BATCH)
        .with_for_update(of=Item, key_share=True, skip_locked=True)
    )
    keys = session.scalars(some).all()
    if keys:
        erasing = sa.update(Item).where(Item.id.in_(keys)).values(**NO_POSITION)
        session.execute(erasing.execution_options(synchronize_session=False))
    return len(keys)
