"""Who may do what: one account's role and its place in a collection decide, here and nowhere else.

What somebody may not see looks the same as what is not there (404); what they see and may not do is refused (403).
"""

from __future__ import annotations

from enum import IntEnum
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute, Session

from retllm.db.enums import MemberRole, Role, Visibility
from retllm.db.people import CollectionMember
from retllm.db.tables import Collection, Item, Job, User
from retllm.errors import Forbidden, NotFound

Column = sa.ColumnElement[UUID] | InstrumentedAttribute[UUID]


class Right(IntEnum):
    """What somebody may do in a collection; each right holds those before it."""

    SEE = 1  # look at items and results, search, review
    CHANGE = 2  # upload, index, change and delete items, stop and delete anybody's jobs
    MANAGE = 3  # say who else sees it, choose its embedder, delete it


_REFUSED = {
    Right.CHANGE: "You can look at this collection and search it; to change it, ask its owner to make you an editor.",
    Right.MANAGE: "Only the owner of this collection and administrators may do that.",
}


def visible_collections(user: User) -> sa.ColumnElement[bool]:
    """True for the collections that ``user`` may see: their own, those they are a member of, those open to everyone."""
    if user.role is Role.ADMIN:
        return sa.true()
    mine = sa.select(CollectionMember.collection_id).where(CollectionMember.user_id == user.id)
    return sa.or_(Collection.owner_id == user.id, Collection.visibility == Visibility.EVERYONE, Collection.id.in_(mine))


def within_visible(user: User, collection_id: Column) -> sa.ColumnElement[bool]:
    """True where the column names a collection that ``user`` may see."""
    if user.role is Role.ADMIN:
        return sa.true()
    return collection_id.in_(sa.select(Collection.id).where(visible_collections(user)))


def right_in(session: Session, user: User, collection: Collection) -> Right | None:
    """What ``user`` may do in ``collection``; None if they may not even see it."""
    if user.role is Role.ADMIN:
        return Right.MANAGE
    may_change = user.role is Role.EDITOR
    if collection.owner_id == user.id:
        return Right.MANAGE if may_change else Right.SEE
    member = session.get(CollectionMember, (collection.id, user.id))
    if member is not None:
        return Right.CHANGE if may_change and member.role is MemberRole.EDITOR else Right.SEE
    return Right.SEE if collection.visibility is Visibility.EVERYONE else None


def collection_for(session: Session, user: User, collection_id: UUID, right: Right = Right.SEE) -> Collection:
    """A collection in which ``user`` has that right.

    Raises:
        NotFound: there is none; one that this account may not see looks the same as none.
        Forbidden: they see it, and may not do that there.
    """
    collection = session.get(Collection, collection_id)
    has = right_in(session, user, collection) if collection is not None else None
    if collection is None or has is None:
        raise NotFound("There is no such collection.")
    if has < right:
        raise Forbidden(_REFUSED[right])
    return collection


def item_for(session: Session, user: User, item_id: UUID, right: Right = Right.SEE) -> Item:
    """An item, whatever its state, of a collection in which ``user`` has that right.

    Raises:
        NotFound: there is none that this account may see.
        Forbidden: they see it, and may not do that.
    """
    item = session.get(Item, item_id)
    try:
        if item is not None:
            collection_for(session, user, item.collection_id, right)
            return item
    except NotFound:
        pass
    raise NotFound("There is no such item.")


def job_for(session: Session, user: User, job_id: UUID) -> Job:
    """A job on a collection that ``user`` may see.

    Raises:
        NotFound: there is none that this account may see.
    """
    job = session.scalar(sa.select(Job).where(Job.id == job_id, within_visible(user, Job.collection_id)))
    if job is None:
        raise NotFound("There is no such job.")
    return job


def demand_job(session: Session, user: User, job: Job) -> None:
    """Refuse to let ``user`` stop, retry or delete a job that is not theirs, in a collection they may not change.

    Raises:
        NotFound: they may not see it.
        Forbidden: they see it, and it is somebody else's.
    """
    collection = session.get_one(Collection, job.collection_id)
    has = right_in(session, user, collection)
    if has is None:
        raise NotFound("There is no such job.")
    if has < Right.CHANGE and job.user_id != user.id:
        raise Forbidden("This job is somebody else's: its owner and the editors of the collection may do that.")


def changeable_jobs(user: User) -> sa.ColumnElement[bool]:
    """True for the jobs that ``user`` may stop, retry and delete, among those that they see (see ``demand_job``)."""
    if user.role is Role.ADMIN:
        return sa.true()
    own = Job.user_id == user.id
    if user.role is Role.VIEWER:
        return own
    edited = sa.select(CollectionMember.collection_id).where(
        CollectionMember.user_id == user.id, CollectionMember.role == MemberRole.EDITOR
    )
    owned = sa.select(Collection.id).where(Collection.owner_id == user.id)
    return sa.or_(own, Job.collection_id.in_(edited), Job.collection_id.in_(owned))


def demand_role(user: User, *roles: Role) -> None:
    """Refuse unless ``user`` has one of these roles.

    Raises:
        Forbidden: they have another one.
    """
    if user.role not in roles:
        needed = " or ".join(sorted(role.value for role in roles))
        raise Forbidden(f"This needs an account with the role {needed}; yours is {user.role.value}.")
