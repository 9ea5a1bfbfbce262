"""Counts of items and vectors by collection, written by triggers in the transaction that changes what they count.

A trigger adds rows with differences and changes none, so that workers do not wait for each other; a count is the sum
of its rows. Dispatchers replace the rows of a collection by their sums (:func:`merge`).
"""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from retllm.db.base import Base
from retllm.db.deletion import InCollection
from retllm.db.enums import ItemKind
from retllm.db.session import Sessions, run_transaction, transaction
from retllm.db.tables import Collection

MERGE_SECONDS = 5.0
"""How often a dispatcher merges counts."""
_COLLECTIONS, _ROWS = 1_000, 10_000


class CollectionCount(InCollection, Base):
    """How many more ready items a collection has, or how many more vectors of a model; negative: how many fewer.

    Attributes:
        model_id: null for items.
        failed: whether the items have an error.
        fresh: whether the vectors were made from the current version of a ready item; true for items.
        image_weight: that of the vectors of captioned pictures; null for others.
        merged: whether it is the sum of earlier rows.
    """

    __tablename__ = "collection_counts"
    __table_args__ = (
        sa.Index("ix_collection_counts_collection_id", "collection_id"),
        sa.Index("ix_collection_counts_unmerged", "collection_id", postgresql_where=sa.text("NOT merged")),
    )

    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(), primary_key=True)
    collection_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("collections.id", ondelete="CASCADE"))
    model_id: Mapped[uuid.UUID | None]
    kind: Mapped[ItemKind]
    failed: Mapped[bool]
    fresh: Mapped[bool]
    image_weight: Mapped[float | None]
    count: Mapped[int] = mapped_column(sa.BigInteger)
    merged: Mapped[bool] = mapped_column(server_default=sa.false())


COUNTED = "collection_id, model_id, kind, failed, fresh, image_weight"
"""The columns that tell what is counted."""

REAL_COUNTS = """
    SELECT collection_id, NULL::uuid AS model_id, kind, error IS NOT NULL AS failed, true AS fresh,
        NULL::double precision AS image_weight, count(*) AS count
    FROM items WHERE state = 'ready' GROUP BY collection_id, kind, error IS NOT NULL
    UNION ALL
    SELECT e.collection_id, e.model_id, i.kind, i.error IS NOT NULL, i.state = 'ready' AND i.version = e.item_version,
        CASE WHEN i.kind = 'image+text' THEN e.image_weight END, count(*)
    FROM embeddings e JOIN items i ON i.id = e.item_id GROUP BY 1, 2, 3, 4, 5, 6
"""
"""The query of what the counts should be."""

_MERGE = sa.text(f"""
    WITH gone AS (
        DELETE FROM collection_counts WHERE id = ANY (ARRAY(
            SELECT id FROM collection_counts WHERE collection_id = :collection_id ORDER BY merged DESC LIMIT {_ROWS}
        )) RETURNING *
    ), kept AS (
        INSERT INTO collection_counts ({COUNTED}, count, merged)
        SELECT {COUNTED}, sum(count), true FROM gone GROUP BY {COUNTED} HAVING sum(count) <> 0
    ) SELECT count(*) FROM gone
""")  # noqa: S608 - constants


def merge(sessions: Sessions) -> int:
    """Replace the rows of each collection whose counts changed by their sums; return the number of replaced rows."""
    changed = sa.select(CollectionCount.collection_id).where(~CollectionCount.merged).distinct().limit(_COLLECTIONS)
    with transaction(sessions) as session:
        collection_ids = session.scalars(changed).all()
    replaced = 0
    for collection_id in collection_ids:
        replaced += run_transaction(sessions, lambda session, key=collection_id: _merge_one(session, key))  # type: ignore[misc]
    return replaced


def _merge_one(session: Session, collection_id: uuid.UUID) -> int:
    # before its counts, in the order of locks; who has it alone removes or changes the collection
    kept = sa.select(Collection.id).where(Collection.id == collection_id)
    if session.scalar(kept.with_for_update(read=True, key_share=True, skip_locked=True)) is None:
        return 0
    return session.scalar(_MERGE, {"collection_id": collection_id}) or 0
