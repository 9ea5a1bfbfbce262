"""Put the map of a job in the place of an earlier one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from retllm.db.jobs import Job
from retllm.db.many import insert_many, one_of
from retllm.db.maps import MapPoint, MapResult
from retllm.db.tables import Item
from retllm.indexing.indexed import has_content

_AT_ONCE = 5_000
_DECIMALS = 4


@dataclass(frozen=True)
class Placed:
    """Items with their places, in a random order.

    Attributes:
        model_id: the version of the embedder.
        through: the last item that was there when the job began.
        keys: of the items, 16 bytes each.
        places: from the left and from the top.
    """

    model_id: UUID
    through: UUID
    keys: NDArray[np.uint8]
    places: NDArray[np.float32]


def replace_map(session: Session, job: Job, placed: Placed) -> None:
    """Store the map of a job, whose lock the caller holds, instead of that of the collection.

    Items that were deleted or moved meanwhile are left out. The map of a later job stays.
    """
    left = _locked(session, job, placed)
    values = {
        "job_id": job.id,
        "model_id": placed.model_id,
        "through": placed.through,
        "items": len(placed.keys),
        "created_at": sa.func.now(),
    }
    row = insert(MapResult).values(collection_id=job.collection_id, **values)
    newer = row.on_conflict_do_update(
        index_elements=["collection_id"], set_=values, where=MapResult.job_id <= job.id
    ).returning(MapResult.job_id)
    if session.scalar(newer) is None:
        return
    earlier = sa.delete(MapPoint).where(MapPoint.collection_id == job.collection_id)
    session.execute(earlier.execution_options(synchronize_session=False))
    for start, keys in _some(placed):
        rows: list[dict[str, Any]] = [
            {"item_id": key, "collection_id": job.collection_id, "rank": rank, "x": x, "y": y}
            for rank, (key, (x, y)) in enumerate(zip(keys, _places(placed, start, len(keys)), strict=True), start)
            if key in left
        ]
        if rows:
            session.execute(insert_many(MapPoint, rows))


def _locked(session: Session, job: Job, placed: Placed) -> set[UUID]:
    """Return those of the items that are still in the collection, whose rows are locked, before their points."""
    there = Item.collection_id == job.collection_id, has_content()
    every = [key for _, keys in _some(placed) for key in keys]
    locked = sa.select(Item.id).where(one_of(Item.id, every), *there).order_by(Item.id)
    return set(session.scalars(locked.with_for_update(read=True, key_share=True)))


def _some(placed: Placed) -> Iterator[tuple[int, list[UUID]]]:
    for start in range(0, len(placed.keys), _AT_ONCE):
        yield start, [UUID(bytes=key.tobytes()) for key in placed.keys[start : start + _AT_ONCE]]


def _places(placed: Placed, start: int, number: int) -> list[list[float]]:
    found: list[list[float]] = placed.places[start : start + number].astype(float).round(_DECIMALS).tolist()
    return found
