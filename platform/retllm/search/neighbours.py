"""The k nearest items of a collection in pgvector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from pgvector import Vector
from sqlalchemy.orm import Session

from retllm.db.enums import ItemKind, ItemState
from retllm.db.tables import Embedding, EmbeddingModel, Item
from retllm.db.vectors import distance

# below this many vectors an exact scan takes milliseconds and misses nothing
EXACT_LIMIT = 20_000
_MAX_EF_SEARCH = 1000


@dataclass(frozen=True)
class Neighbour:
    """An item near the query: its cosine similarity in [-1, 1] and its coarse rank, 1 for the nearest."""

    item_id: UUID
    similarity: float
    rank: int


def nearest(
    session: Session,
    model: EmbeddingModel,
    collection_id: UUID,
    query: NDArray[np.float32],
    k: int,
    kinds: Sequence[ItemKind],
) -> tuple[list[Neighbour], int]:
    """The ``k`` nearest items and how many were searched.

    A small collection is scanned exactly in full precision; a large one goes through the model's HNSW index on
    ``halfvec`` with ``ef_search >= k`` and iterative scans, so that a filter never leaves fewer than k rows while
    there are more (design: speed).

    Args:
        query: L2-normalised vector of shape (dimension,), float32.
        kinds: kinds of items to consider.
    """
    belongs = (
        Embedding.model_id == model.id,
        Embedding.collection_id == collection_id,
        Item.state == ItemState.READY,
        Item.kind.in_(list(kinds)),
    )
    searched = session.scalar(
        sa.select(sa.func.count()).select_from(Embedding).join(Item, Item.id == Embedding.item_id).where(*belongs)
    )
    searched = searched or 0
    if searched <= EXACT_LIMIT:
        # the MATERIALIZED barrier keeps the planner from answering out of the approximate index
        pool = (
            sa.select(Embedding.item_id, Embedding.vector)
            .join(Item, Item.id == Embedding.item_id)
            .where(*belongs)
            .cte("pool")
            .prefix_with("MATERIALIZED", dialect="postgresql")
        )
        gap: Any = pool.c.vector.cosine_distance(Vector([float(x) for x in query]))
        ranked = sa.select(pool.c.item_id, gap.label("gap")).order_by(gap, pool.c.item_id).limit(k)
    else:
        session.execute(sa.text(f"SET LOCAL hnsw.ef_search = {min(_MAX_EF_SEARCH, max(40, 2 * int(k)))}"))
        session.execute(sa.text("SET LOCAL hnsw.iterative_scan = strict_order"))
        gap = distance(model, query)
        ranked = (
            sa.select(Embedding.item_id, gap.label("gap"))
            .join(Item, Item.id == Embedding.item_id)
            .where(*belongs)
            .order_by(gap)
            .limit(k)
        )
    rows = session.execute(ranked).all()
    return [Neighbour(row.item_id, 1.0 - float(row.gap), rank) for rank, row in enumerate(rows, start=1)], searched


def similarities(
    session: Session, model: EmbeddingModel, query: NDArray[np.float32], item_ids: Sequence[UUID]
) -> dict[UUID, float]:
    """The cosine similarity of these items to the query, in full precision; an item without a vector is left out.

    Args:
        query: L2-normalised vector of shape (dimension,), float32.
    """
    gap: Any = Embedding.vector.cosine_distance(Vector([float(x) for x in query]))
    rows = session.execute(
        sa.select(Embedding.item_id, gap.label("gap")).where(
            Embedding.model_id == model.id, Embedding.item_id.in_(list(item_ids))
        )
    )
    return {row.item_id: 1.0 - float(row.gap) for row in rows}
