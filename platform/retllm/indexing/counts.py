"""How many items of a collection are of which kind, failed, or embedded; read from the kept counts (``db.counts``)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection as Several
from dataclasses import dataclass, field
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.counts import CollectionCount
from retllm.db.enums import ItemKind


@dataclass
class Counts:
    """Counts of a collection.

    Attributes:
        kinds: its items by kind.
        failed: its items whose last embedding failed.
        vectors: vectors by model, including stale ones.
        embedded: items with an up-to-date vector, by model.
        embedded_though_failed: those of them whose last embedding, by another model, failed.
    """

    kinds: Counter[ItemKind] = field(default_factory=Counter)
    failed: int = 0
    vectors: Counter[UUID] = field(default_factory=Counter)
    embedded: Counter[UUID] = field(default_factory=Counter)
    embedded_though_failed: Counter[UUID] = field(default_factory=Counter)

    def failed_without(self, model_id: UUID | None) -> int:
        """Return the number of failed items without an up-to-date vector of this model."""
        return self.failed - (self.embedded_though_failed[model_id] if model_id else 0)


def counts_of(session: Session, collection_ids: Several[UUID], image_weight: float) -> dict[UUID, Counts]:
    """Return the counts of these collections; ``image_weight`` is that of up-to-date vectors of captioned pictures."""
    one = CollectionCount
    columns = (one.collection_id, one.model_id, one.kind, one.failed, one.fresh, one.image_weight)
    query = sa.select(*columns, sa.func.sum(one.count)).where(one.collection_id.in_(collection_ids)).group_by(*columns)
    found = {collection_id: Counts() for collection_id in collection_ids}
    for collection_id, model_id, kind, failed, fresh, weight, count in session.execute(query):
        counts, number = found[collection_id], int(count)
        if model_id is None:
            counts.kinds[kind] += number
            counts.failed += number if failed else 0
            continue
        counts.vectors[model_id] += number
        if fresh and weight in (None, image_weight):
            counts.embedded[model_id] += number
            counts.embedded_though_failed[model_id] += number if failed else 0
    return found


def items_in(*conditions: sa.ColumnElement[bool]) -> sa.Select[int]:
    """Return the query of how many items the collections have whose counts meet these conditions."""
    count = sa.cast(sa.func.coalesce(sa.func.sum(CollectionCount.count), 0), sa.BigInteger)
    return sa.select(count).where(CollectionCount.model_id.is_(None), *conditions)
