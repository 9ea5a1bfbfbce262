"""Read the groups of near-duplicates of a collection; the cost does not grow with their number."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.duplicates import Dismissal, DuplicateGroup, DuplicateMember, DuplicateResult, is_group
from retllm.db.jobs import Job
from retllm.db.tables import Item
from retllm.duplicates.submit import of_collection
from retllm.indexing.indexed import is_ready

COUNTED = 1_000
"""So many groups are counted; of more it is only known that they are more."""


@dataclass(frozen=True)
class Duplicate:
    """A picture of a group; ``best`` is the one to keep: most pixels, then most bytes, then added first."""

    item: Item
    distance: int
    similarity: float | None
    best: bool


@dataclass(frozen=True)
class Group:
    """A group with its pictures, the best one first."""

    id: UUID
    pictures: Sequence[Duplicate]


@dataclass(frozen=True)
class State:
    """What is known of the near-duplicates of a collection.

    Attributes:
        result: what the groups are the result of; None if no job has ended.
        job: the newest job; None if there is none any more.
        out_of_date: whether pictures were added that the result does not know.
        groups: their number, at most ``COUNTED`` + 1.
        dismissed: whether groups were dismissed.
    """

    result: DuplicateResult | None
    job: Job | None
    out_of_date: bool
    groups: int
    dismissed: bool


def state_of(session: Session, collection_id: UUID) -> State:
    """Return what is known of the near-duplicates of a collection."""
    result = session.get(DuplicateResult, collection_id)
    inside = (DuplicateGroup.collection_id == collection_id, is_group())
    some = sa.select(DuplicateGroup.id).where(*inside).limit(COUNTED + 1)
    dismissed = sa.select(Dismissal.item_id).where(Dismissal.collection_id == collection_id).limit(1)
    return State(
        result=result,
        job=session.scalar(of_collection(collection_id)),
        out_of_date=result is not None and _is_out_of_date(session, result),
        groups=session.scalar(sa.select(sa.func.count()).select_from(some.subquery())) or 0,
        dismissed=session.scalar(dismissed) is not None,
    )


def _is_out_of_date(session: Session, result: DuplicateResult) -> bool:
    later = sa.select(Item.id).where(
        Item.collection_id == result.collection_id, is_ready(), Item.perceptual_hash.is_not(None)
    )
    if result.through is not None:
        # a range of the index of both
        later = later.where(sa.tuple_(Item.collection_id, Item.id) > sa.tuple_(result.collection_id, result.through))
    return session.scalar(later.order_by(Item.collection_id, Item.id).limit(1)) is not None


def groups_from(
    session: Session, collection_id: UUID, *, at: UUID | None = None, after: UUID | None = None, limit: int
) -> list[Group]:
    """Return groups of a collection in their order.

    Args:
        at: begin with this group, or the one behind it if it is gone.
        after: begin behind this group.
    """
    query = sa.select(DuplicateGroup.id).where(DuplicateGroup.collection_id == collection_id, is_group())
    place = sa.tuple_(DuplicateGroup.collection_id, DuplicateGroup.id)
    if at is not None:
        query = query.where(place >= sa.tuple_(collection_id, at))
    if after is not None:
        query = query.where(place > sa.tuple_(collection_id, after))
    order = query.order_by(DuplicateGroup.collection_id, DuplicateGroup.id)
    return _with_pictures(session, session.scalars(order.limit(limit)).all())


def group_in(session: Session, collection_id: UUID, group_id: UUID) -> Group | None:
    """Return a group of a collection; None if it has none of this key (any more)."""
    own = DuplicateGroup.collection_id == collection_id, DuplicateGroup.id == group_id, is_group()
    found = session.scalars(sa.select(DuplicateGroup.id).where(*own)).all()
    return next(iter(_with_pictures(session, found)), None)


def _with_pictures(session: Session, group_ids: Sequence[UUID]) -> list[Group]:
    members = (
        sa.select(DuplicateMember, Item)
        .join(Item, Item.id == DuplicateMember.item_id)
        .where(DuplicateMember.group_id.in_(group_ids), is_ready())
    )
    found: defaultdict[UUID, list[tuple[DuplicateMember, Item]]] = defaultdict(list)
    if group_ids:
        for member, item in session.execute(members):
            found[member.group_id].append((member, item))
    return [Group(key, _best_first(found[key])) for key in group_ids if len(found[key]) > 1]


def _best_first(members: Sequence[tuple[DuplicateMember, Item]]) -> list[Duplicate]:
    order = sorted(members, key=lambda row: _rank(row[1]))
    return [
        Duplicate(item, member.distance, member.similarity, number == 0) for number, (member, item) in enumerate(order)
    ]


def _rank(item: Item) -> tuple[int, int, UUID]:
    return -(item.width or 0) * (item.height or 0), -item.size_bytes, item.id
