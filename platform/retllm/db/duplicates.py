"""Near-duplicates: the groups of pictures of a collection that are nearly the same, as the last job found them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from retllm.db.base import Base, Keyed
from retllm.db.deletion import InCollection, InJob
from retllm.db.enums import ItemState
from retllm.db.jobs import Job
from retllm.db.many import one_of
from retllm.db.tables import Item

_WITHOUT_SYNC = {"synchronize_session": False}


class DuplicateResult(InCollection, Base):
    """What the groups of a collection are the result of.

    Attributes:
        job_id: the job, which may be deleted since.
        through: the last picture that it compared; those with higher keys came later. Null if there was none.
        pictures: how many it compared.
    """

    __tablename__ = "duplicate_results"

    collection_id: Mapped[uuid.UUID] = mapped_column(
        sa.ForeignKey("collections.id", ondelete="CASCADE"), primary_key=True
    )
    job_id: Mapped[uuid.UUID]
    through: Mapped[uuid.UUID | None]
    pictures: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())


class DuplicateGroup(Keyed, InCollection, Base):
    """Pictures that are nearly the same. Groups are listed by their keys.

    Attributes:
        size: how many of them the collection has. Those in the trash stay members and are not counted; a group of
            fewer than two is none for anyone (:func:`is_group`).
    """

    __tablename__ = "duplicate_groups"
    __table_args__ = (sa.Index("ix_duplicate_groups_collection_id_id", "collection_id", "id"),)

    collection_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("collections.id", ondelete="CASCADE"))
    size: Mapped[int]


class DuplicateMember(Base):
    """A picture of a group.

    Attributes:
        distance: number of bits in which its perceptual hash differs from that of the picture that the group was formed
            around.
        similarity: cosine similarity of their vectors, if these were near enough; null if only the hashes were.
    """

    __tablename__ = "duplicate_members"
    __table_args__ = (sa.Index("ix_duplicate_members_group_id", "group_id", "item_id"),)

    item_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("items.id", ondelete="CASCADE"), primary_key=True)
    group_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("duplicate_groups.id", ondelete="CASCADE"))
    distance: Mapped[int] = mapped_column(sa.SmallInteger)
    similarity: Mapped[float | None]


class SimilarPair(InJob, Base):
    """Two pictures whose vectors a job found near to each other; ``first`` has the lower key."""

    __tablename__ = "similar_pairs"

    job_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey(Job.id, ondelete="CASCADE"), primary_key=True)
    first: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    second: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    similarity: Mapped[float]


class Dismissal(InCollection, Base):
    """A picture of which a person said that it is no duplicate of any other one with the same ``dismissal_id``."""

    __tablename__ = "dismissals"
    __table_args__ = (sa.Index("ix_dismissals_collection_id", "collection_id"),)

    item_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("items.id", ondelete="CASCADE"), primary_key=True)
    dismissal_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    collection_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("collections.id", ondelete="CASCADE"))


def is_group() -> sa.ColumnElement[bool]:
    """Whether at least two pictures of a group are in the collection."""
    return DuplicateGroup.size >= 2


def count_groups(session: Session, item_ids: Sequence[uuid.UUID]) -> None:
    """Count the groups of items again, which the caller has locked and has put into the trash or restored."""
    _count(session, _lock_groups(session, item_ids))


def leave_groups(session: Session, item_ids: Sequence[uuid.UUID]) -> None:
    """Take items, which the caller has locked, out of their groups; a group of fewer than two goes with them."""
    group_ids = _lock_groups(session, item_ids)
    if not group_ids:
        return
    session.execute(
        sa.delete(DuplicateMember).where(one_of(DuplicateMember.item_id, item_ids)).execution_options(**_WITHOUT_SYNC)
    )
    _count(session, group_ids)
    members = sa.select(sa.func.count()).where(DuplicateMember.group_id == DuplicateGroup.id).scalar_subquery()
    too_small = sa.delete(DuplicateGroup).where(one_of(DuplicateGroup.id, group_ids), members < 2)
    session.execute(too_small.execution_options(**_WITHOUT_SYNC))


def _lock_groups(session: Session, item_ids: Sequence[uuid.UUID]) -> Sequence[uuid.UUID]:
    mine = one_of(DuplicateMember.item_id, item_ids)
    group_ids = session.scalars(sa.select(DuplicateMember.group_id).where(mine).distinct()).all()
    # two that leave one group at the same time would both count the other one
    locked = sa.select(DuplicateGroup.id).where(one_of(DuplicateGroup.id, group_ids)).order_by(DuplicateGroup.id)
    return session.scalars(locked.with_for_update()).all() if group_ids else []


def _count(session: Session, group_ids: Sequence[uuid.UUID]) -> None:
    there = sa.select(sa.func.count()).join_from(DuplicateMember, Item)
    there = there.where(DuplicateMember.group_id == DuplicateGroup.id, Item.state == ItemState.READY)
    counted = sa.update(DuplicateGroup).where(one_of(DuplicateGroup.id, group_ids)).values(size=there.scalar_subquery())
    if group_ids:
        session.execute(counted.execution_options(**_WITHOUT_SYNC))
