"""Find the k nearest items of a collection with pgvector."""

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
from retllm.db.vectors import distance, index_name

# up to this many vectors, an exact scan is about as fast as the index and misses nothing
EXACT_LIMIT = 20_000
# below this share of the index, most vectors that an index scan visits belong to other collections
SMALL_SHARE = 0.125
_MAX_EF_SEARCH = 1000

_Conditions = Sequence[sa.ColumnElement[bool]]


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
    """Return the ``k`` nearest items and the number of searched items; always ``min(k, searched)`` items.

    A collection that is small, or a small share of the model's index, is scanned exactly. For other collections, the
    HNSW index is used with iterative scans. An iterative scan stops after ``hnsw.max_scan_tuples`` vectors of any
    collection; if it returns too few items because nearer items belong to other collections, the collection is scanned
    exactly. In both cases similarities have full precision, and equal ones are ordered by item key.

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
    counted = sa.select(sa.func.count()).select_from(Embedding).join(Item, Item.id == Embedding.item_id)
    searched = session.scalar(counted.where(*belongs)) or 0
    rows: Sequence[sa.Row[UUID, float]] = []
    if searched > EXACT_LIMIT and searched > SMALL_SHARE * _index_size(session, model):
        rows = _by_index(session, model, belongs, query, k)
    if len(rows) < min(k, searched):
        rows = _exactly(session, belongs, query, k)
    if len(rows) < k:
        # there are no more items; some were deleted since the count
        searched = len(rows)
    neighbours = [Neighbour(row.item_id, 1.0 - float(row.gap), rank) for rank, row in enumerate(rows, start=1)]
    return neighbours, max(searched, len(rows))


def _index_size(session: Session, model: EmbeddingModel) -> float:
    """Return the estimated size of the model's index as of the last ANALYZE or VACUUM; 0 or less before the first."""
    size = sa.text("SELECT reltuples FROM pg_class WHERE oid = to_regclass(:name)")
    return session.scalar(size, {"name": index_name(model.id)}) or 0.0


def _by_index(
    session: Session, model: EmbeddingModel, belongs: _Conditions, query: NDArray[np.float32], k: int
) -> Sequence[sa.Row[UUID, float]]:
    """Return up to ``k`` items found by the HNSW index, ordered by their full-precision distances."""
    # both settings are local to the transaction
    session.execute(sa.text(f"SET LOCAL hnsw.ef_search = {min(_MAX_EF_SEARCH, max(40, 2 * int(k)))}"))
    session.execute(sa.text("SET LOCAL hnsw.iterative_scan = strict_order"))
    found = (
        sa.select(Embedding.item_id, Embedding.vector)
        .join(Item, Item.id == Embedding.item_id)
        .where(*belongs)
        .order_by(distance(model, query))
        .limit(k)
        .cte("found")
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )
    gap = _gap(found.c.vector, query)
    return session.execute(sa.select(found.c.item_id, gap.label("gap")).order_by(gap, found.c.item_id)).all()


def _exactly(
    session: Session, belongs: _Conditions, query: NDArray[np.float32], k: int
) -> Sequence[sa.Row[UUID, float]]:
    """Return the exact ``k`` nearest items. The HNSW index is on ``halfvec`` and can't order by full precision."""
    gap = _gap(Embedding.vector, query)
    ranked = (
        sa.select(Embedding.item_id, gap.label("gap"))
        .join(Item, Item.id == Embedding.item_id)
        .where(*belongs)
        .order_by(gap, Embedding.item_id)
        .limit(k)
    )
    return session.execute(ranked).all()


def _gap(vector: Any, query: NDArray[np.float32]) -> sa.ColumnElement[float]:
    """Return the cosine distance in full precision; 1 (orthogonal) for a zero vector."""
    gap = vector.cosine_distance(Vector([float(x) for x in query]))
    number: sa.ColumnElement[float] = sa.func.coalesce(sa.func.nullif(gap, sa.literal_column("'NaN'::float8")), 1.0)
    return number


def similarities(
    session: Session, model: EmbeddingModel, query: NDArray[np.float32], item_ids: Sequence[UUID]
) -> dict[UUID, float]:
    """Return the full-precision cosine similarity of each item to the query; items without a vector are left out.

    Args:
        query: L2-normalised vector of shape (dimension,), float32.
    """
    rows = session.execute(
        sa.select(Embedding.item_id, _gap(Embedding.vector, query).label("gap")).where(
            Embedding.model_id == model.id, Embedding.item_id.in_(list(item_ids))
        )
    )
    return {row.item_id: 1.0 - float(row.gap) for row in rows}
