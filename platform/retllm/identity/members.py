"""Members of collections. ``retllm.identity.access`` decides what they may do."""

from __future__ import annotations

from collections.abc import Sequence
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
from retllm.identity import names

MAX_COUNTED = 1_000
"""Members of a collection that are counted."""


@dataclass(frozen=True)
class Member:
    """A member of a collection; ``role`` is the role in the collection, ``account_role`` that of the account."""

    id: UUID
    name: str
    role: MemberRole
    account_role: Role
    locked_out: bool
    since: datetime

    @property
    def held_back(self) -> bool:
        """Return whether the role of the account allows less than the role in the collection."""
        return self.role is MemberRole.EDITOR and self.account_role is Role.VIEWER


def page(session: Session, collection: Collection, *, after: UUID | None = None, limit: int = 50) -> list[Member]:
    """Return members of ``collection``, oldest accounts first; ``after`` is the last key of the page before."""
    query = _members().where(CollectionMember.collection_id == collection.id).order_by(User.id).limit(limit)
    if after is not None:
        # on the key of the member, for the index of the primary key
        query = query.where(CollectionMember.user_id > after)
    return [Member(*row) for row in session.execute(query)]


def candidates(session: Session, collection: Collection, text: str = "", *, limit: int = 20) -> list[User]:
    """Return accounts that can become members of ``collection``, by name; those with ``text`` in their names."""
    is_member = sa.exists().where(CollectionMember.collection_id == collection.id, CollectionMember.user_id == User.id)
    query = sa.select(User).where(User.disabled_at.is_(None), User.id != collection.owner_id, ~is_member)
    if text:
        query = query.where(User.name.icontains(names.written(text), autoescape=True))
    return list(session.scalars(query.order_by(sa.func.lower(User.name)).limit(limit)))


def counts(session: Session, collection_ids: Sequence[UUID]) -> dict[UUID, int]:
    """Return how many members collections have; ``MAX_COUNTED`` + 1 means more than the maximum."""
    some = (
        sa.select(CollectionMember.user_id)
        .where(CollectionMember.collection_id == Collection.id)
        .correlate(Collection)
        .limit(MAX_COUNTED + 1)
        .subquery()
    )
    number = sa.select(sa.func.count()).select_from(some).scalar_subquery()
    return dict(iter(session.execute(sa.select(Collection.id, number).where(Collection.id.in_(collection_ids)))))


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
    """Add ``user`` as a member of ``collection``, or change the role of a member.

    Raises:
        NotFound: the collection was deleted.
        Conflict: ``user`` owns the collection.
    """
    lock_collection(session, collection.id)
    if user.id == collection.owner_id:
        raise Conflict(f"{user.name} owns this collection and already has all rights in it.")
    row = insert(CollectionMember).values(collection_id=collection.id, user_id=user.id, role=role)
    key = (CollectionMember.collection_id, CollectionMember.user_id)
    session.execute(row.on_conflict_do_update(index_elements=key, set_={"role": role}))
    conditions = (CollectionMember.collection_id == collection.id, CollectionMember.user_id == user.id)
    return Member(*session.execute(_members().where(*conditions)).one())


def remove_member(session: Session, collection: Collection, user_id: UUID) -> str:
    """Remove a member; return the name of the account.

    Raises:
        NotFound: the collection has no such member.
    """
    removed = (
        sa.delete(CollectionMember)
        .where(CollectionMember.collection_id == collection.id, CollectionMember.user_id == user_id)
        .returning(CollectionMember.user_id)
    )
    if session.execute(removed).first() is None:
        raise NotFound("This collection has no such member.")
    return session.get_one(User, user_id).name
