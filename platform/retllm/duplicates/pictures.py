"""The pictures of a collection with their perceptual hashes, as few bytes as a million of them allow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from retllm.db.tables import Item
from retllm.indexing.indexed import is_ready

_AT_ONCE = 50_000
_HALF = (1 << 64) - 1


@dataclass(frozen=True)
class HashedPictures:
    """Pictures in the order of their keys, which are numbers of 128 bits in two halves, and their hashes."""

    high: NDArray[np.uint64]
    low: NDArray[np.uint64]
    hashes: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.hashes)

    def key(self, place: int) -> UUID:
        """Return the key of a picture."""
        return UUID(int=int(self.high[place]) << 64 | int(self.low[place]))

    def place(self, key: UUID) -> int | None:
        """Return the place of a picture; None if it is none of these."""
        high, low = np.uint64(key.int >> 64), np.uint64(key.int & _HALF)
        begin, end = np.searchsorted(self.high, high, "left"), np.searchsorted(self.high, high, "right")
        place = int(begin + np.searchsorted(self.low[begin:end], low))
        return place if place < end and self.low[place] == low else None


def hashed_pictures(session: Session, collection_id: UUID, check: Callable[[], None]) -> HashedPictures:
    """Return the pictures of a collection that have a hash, those that show too little included.

    Args:
        check: called now and then; what it raises ends the reading.
    """
    query = (
        sa.select(Item.id, Item.perceptual_hash)
        .where(Item.collection_id == collection_id, is_ready(), Item.perceptual_hash.is_not(None))
        .order_by(Item.id)
    )
    keys: list[bytes] = []
    hashes: list[NDArray[np.int64]] = []
    for rows in session.execute(query.execution_options(yield_per=_AT_ONCE)).partitions():
        check()
        keys.append(b"".join(row.id.bytes for row in rows))
        hashes.append(np.array([row.perceptual_hash for row in rows], dtype=np.int64))
    halves = np.frombuffer(b"".join(keys), dtype=">u8").astype(np.uint64).reshape(-1, 2)
    joined = np.concatenate(hashes) if hashes else np.zeros(0, dtype=np.int64)
    return HashedPictures(halves[:, 0].copy(), halves[:, 1].copy(), joined.view(np.uint64))
