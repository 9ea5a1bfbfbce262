"""Who sees a collection besides its owner: its visibility and its members. What they may do there says ``access``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from retllm.db.enums import MemberRole, Role
from retllm.db.locks import lock_collection
from retllm.db.people import CollectionMember
from retllm.db.tables import Collection, User
from retllm.errors import Conflict, NotFound


@dataclass(frozen=True)
class Member:
    """Somebody in a collection; ``role`` is theirs there, ``account_role`` that of the account."""

    id: UUID
    name: str
    role: MemberRole
    account_role: Role
    locked_out: bool
    since: datetime

    @property
    def held_back(self) -> bool:
        """Whether the account may do less than the role here would let it."""
        return self.role is MemberRole.EDITOR and self.account_role is Role.VIEWER


def page(session: Session, collection: Collection, *, after: UUID | None = None, limit: int = 50) -> list[Member]:
    """Members of ``collection``, oldest accounts first; ``after`` is the last key of the page before."""
    query = _members().where(CollectionMember.collection_id == collection.id).order_by(User.id).limit(limit)
    if after is not None:
        # on the member's key, so that the table's own index finds the place
        query = query.where(CollectionMember.user_id > after)
    return [Member(*row) for row in session.execute(query)]


def _members() -> sa.Select[UUID, str, MemberRole, Role, bool, datetime]:
    return sa.select(
        User.id,
        User.name,
        CollectionMember.role,
        User.role,
        User.disabled_at.is_not(None),
        CollectionMember.created_at,
    ).join_from(CollectionMember, User, User.id == CollectionMember.user_id)


def add_member(session: Session, collection: Collection, user: User, role: MemberRole) -> Member:
    """Make ``user`` a member of ``collection``, or give a member another role.

    Raises:
        NotFound: the collection was deleted just now.
        Conflict: the collection is theirs.
    """
    lock_collection(session, collection.id)
    if user.id == collection.owner_id:
        raise Conflict(f"{user.name} owns this collection, and so may do everything in it.")
    row = insert(CollectionMember).values(collection_id=collection.id, user_id=user.id, role=role)
    key = (CollectionMember.collection_id, CollectionMember.user_id)
    session.execute(row.on_conflict_do_update(index_elements=key, set_={"role": role}))
    there = (CollectionMember.collection_id == collection.id, CollectionMember.user_id == user.id)
    return Member(*session.execute(_members().where(*there)).one())


def remove_member(session: Session, collection: Collection, user_id: UUID) -> str:
    """End a membership; gives the name of who it was.

    Raises:
        NotFound: the collection has no such member.
    """
    ended = (
        sa.delete(CollectionMember)
        .where(CollectionMember.collection_id == collection.id, CollectionMember.user_id == user_id)
        .returning(CollectionMember.user_id)
    )
    if session.execute(ended).first() is None:
        raise NotFound("This collection has no such member.")
    return session.get_one(User, user_id).name
