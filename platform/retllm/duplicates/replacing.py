"""Put the groups of a job in the place of earlier ones, dismiss groups, and forget what was dismissed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from retllm.db.duplicates import Dismissal, DuplicateGroup, DuplicateMember, DuplicateResult, SimilarPair
from retllm.db.enums import JobKind
from retllm.db.jobs import Job
from retllm.db.locks import lock_collection
from retllm.db.many import insert_many, one_of
from retllm.db.tables import Item, new_id
from retllm.duplicates.grouping import Member
from retllm.duplicates.pictures import HashedPictures
from retllm.errors import NotFound
from retllm.indexing.indexed import is_ready

_AT_ONCE = 5_000
_WITHOUT_SYNC = {"synchronize_session": False}


def replace_groups(
    session: Session, job: Job, pictures: HashedPictures, groups: Sequence[Sequence[tuple[UUID, Member]]]
) -> None:
    """Store the groups of a job, whose lock the caller holds, instead of those of the collection.

    Pictures that were deleted meanwhile are left out. The result of a later job stays.
    """
    keys = [key for group in groups for key, _ in group]
    # before the groups, as a deletion locks them
    locked = sa.select(Item.id).where(one_of(Item.id, keys), is_ready()).order_by(Item.id)
    left = set(session.scalars(locked.with_for_update(read=True, key_share=True)))
    if not _store_result(session, job, pictures):
        return
    own = DuplicateGroup.collection_id == job.collection_id
    session.execute(sa.delete(DuplicateGroup).where(own).execution_options(**_WITHOUT_SYNC))
    group_rows: list[dict[str, Any]] = []
    members: list[dict[str, Any]] = []
    for group in groups:
        present = [(key, member) for key, member in group if key in left]
        if len(present) < 2:
            continue
        # keys grow, so groups are listed in this order
        group_id = new_id()
        group_rows.append({"id": group_id, "collection_id": job.collection_id, "size": len(present)})
        members += (
            {"item_id": key, "group_id": group_id, "distance": member.distance, "similarity": member.similarity}
            for key, member in present
        )
    _insert(session, DuplicateGroup, group_rows)
    _insert(session, DuplicateMember, members)


def _insert(session: Session, table: type[Any], rows: Sequence[dict[str, Any]]) -> None:
    for start in range(0, len(rows), _AT_ONCE):
        session.execute(insert_many(table, rows[start : start + _AT_ONCE]))


def _store_result(session: Session, job: Job, pictures: HashedPictures) -> bool:
    """Store what the groups are the result of, unless that is a later job; remove the pairs of earlier jobs."""
    through = pictures.key(len(pictures) - 1) if len(pictures) else None
    values = {"job_id": job.id, "through": through, "pictures": len(pictures), "created_at": sa.func.now()}
    row = insert(DuplicateResult).values(collection_id=job.collection_id, **values)
    newer = row.on_conflict_do_update(
        index_elements=["collection_id"], set_=values, where=DuplicateResult.job_id <= job.id
    )
    if session.scalar(newer.returning(DuplicateResult.job_id)) is None:
        return False
    earlier = sa.select(Job.id).where(
        Job.collection_id == job.collection_id, Job.kind == JobKind.DUPLICATES, Job.id < job.id
    )
    removal = sa.delete(SimilarPair).where(SimilarPair.job_id.in_(earlier))
    session.execute(removal.execution_options(**_WITHOUT_SYNC))
    return True


def dismiss(session: Session, collection_id: UUID, group_id: UUID) -> int:
    """Note that the pictures of a group are no duplicates of each other, and remove the group; return their number.

    The caller has checked that it may.

    Raises:
        NotFound: the collection has no such group (any more).
    """
    lock_collection(session, collection_id)
    own = DuplicateGroup.id == group_id, DuplicateGroup.collection_id == collection_id
    members = sa.select(DuplicateMember.item_id).join(DuplicateGroup).join(Item, Item.id == DuplicateMember.item_id)
    # the person did not see what is in the trash
    members = members.where(*own, is_ready()).order_by(DuplicateMember.item_id)
    # before the group, as a deletion locks them
    items = sa.select(Item.id).where(one_of(Item.id, session.scalars(members).all())).order_by(Item.id)
    session.execute(items.with_for_update(read=True, key_share=True))
    if session.scalar(sa.select(DuplicateGroup.id).where(*own).with_for_update()) is None:
        raise NotFound("There is no such group of near-duplicates: it may have been decided meanwhile.")
    keys = session.scalars(members).all()
    dismissal = {"dismissal_id": new_id(), "collection_id": collection_id}
    _insert(session, Dismissal, [{"item_id": key, **dismissal} for key in keys])
    session.execute(sa.delete(DuplicateGroup).where(*own).execution_options(**_WITHOUT_SYNC))
    return len(keys)


def forget_dismissals(session: Session, collection_id: UUID) -> int:
    """Let the next job bring back all groups of a collection that were dismissed; return of how many pictures."""
    lock_collection(session, collection_id)
    removal = sa.delete(Dismissal).where(Dismissal.collection_id == collection_id).returning(Dismissal.item_id)
    return len(set(session.scalars(removal.execution_options(**_WITHOUT_SYNC))))
