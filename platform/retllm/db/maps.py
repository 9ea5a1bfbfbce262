"""Maps of collections: where each item is in a layout of the vectors in two dimensions, as the last job made it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from retllm.db.base import Base
from retllm.db.deletion import InCollection
from retllm.db.many import one_of

SIDE = 100
"""A map goes from 0 to this, to the right and downwards."""


class MapResult(InCollection, Base):
    """What the map of a collection is the result of.

    Attributes:
        job_id: the job, which may be deleted since.
        model_id: the version of the embedder whose vectors were laid out.
        through: the last item of the map; those with higher keys came later.
        items: how many the map had when it was made; their ranks are below that.
    """

    __tablename__ = "map_results"

    collection_id: Mapped[uuid.UUID] = mapped_column(
        sa.ForeignKey("collections.id", ondelete="CASCADE"), primary_key=True
    )
    job_id: Mapped[uuid.UUID]
    model_id: Mapped[uuid.UUID]
    through: Mapped[uuid.UUID]
    items: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())


class MapPoint(InCollection, Base):
    """Where an item is on the map of its collection.

    Attributes:
        rank: its place in a random order of the items, so that the first ones are a sample of the map.
        x: from the left, 0 to ``SIDE``.
        y: from the top, 0 to ``SIDE``.
    """

    __tablename__ = "map_points"
    __table_args__ = (
        sa.Index("ix_map_points_collection_id_rank", "collection_id", "rank"),
        sa.Index("ix_map_points_collection_id_x", "collection_id", "x", "y"),
    )

    item_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("items.id", ondelete="CASCADE"), primary_key=True)
    collection_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("collections.id", ondelete="CASCADE"))
    rank: Mapped[int]
    x: Mapped[float] = mapped_column(sa.REAL)
    y: Mapped[float] = mapped_column(sa.REAL)


def leave_map(session: Session, item_ids: Sequence[uuid.UUID]) -> None:
    """Take items, which the caller has locked, off the map of their collection."""
    points = sa.delete(MapPoint).where(one_of(MapPoint.item_id, item_ids))
    session.execute(points.execution_options(synchronize_session=False))
