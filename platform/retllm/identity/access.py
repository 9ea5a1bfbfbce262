"""Who may do what: one account's role, its place in a collection and its token's scope decide, here and nowhere else.

What somebody may not see looks the same as what is not there (404); what they see and may not do is refused (403).
"""

from __future__ import annotations

from enum import IntEnum
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute, Session

from retllm.db.enums import MemberRole, Role, TokenScope, Visibility
from retllm.db.people import CollectionMember
from retllm.db.tables import Collection, Item, Job
from retllm.errors import Forbidden, NotFound
from retllm.identity.actor import Actor

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


# what a token of each scope lets its account do in a collection at most
_MAX = {
    TokenScope.READ: Right.SEE,
    TokenScope.SEARCH: Right.SEE,
    TokenScope.CHANGE: Right.CHANGE,
    TokenScope.MANAGE: Right.MANAGE,
}
_SCOPES = list(TokenScope)


def has_scope(actor: Actor, least: TokenScope) -> bool:
    """Whether ``actor`` acts in this scope or a wider one."""
    return actor.scope is not None and _SCOPES.index(actor.scope) >= _SCOPES.index(least)


def require_scope(actor: Actor, least: TokenScope) -> None:
    """Refuse what a token of a smaller scope may not do.

    Raises:
        Forbidden: ``actor`` acts by such a token.
    """
    if not has_scope(actor, least):
        raise Forbidden(
            f"This token has {f'the scope {actor.scope.value}' if actor.scope else 'no scope'}, "
            f"and that needs {least.value}: "
            f"make another one with `retllm token create --scope {least.value}`.",
            scope=least.value,
        )


def is_admin(actor: Actor) -> bool:
    """Whether ``actor`` may do whatever administrators may."""
    return actor.role is Role.ADMIN and has_scope(actor, TokenScope.MANAGE)


def visible_collections(actor: Actor) -> sa.ColumnElement[bool]:
    """True for the collections that ``actor`` may see: owned, joined as a member, or open to everyone."""
    if not has_scope(actor, TokenScope.READ):
        return sa.false()
    if actor.role is Role.ADMIN:
        return sa.true()
    mine = sa.select(CollectionMember.collection_id).where(CollectionMember.user_id == actor.id)
    return sa.or_(
        Collection.owner_id == actor.id, Collection.visibility == Visibility.EVERYONE, Collection.id.in_(mine)
    )


def within_visible(actor: Actor, collection_id: Column) -> sa.ColumnElement[bool]:
    """True where the column names a collection that ``actor`` may see."""
    if actor.role is Role.ADMIN and has_scope(actor, TokenScope.READ):
        return sa.true()
    return collection_id.in_(sa.select(Collection.id).where(visible_collections(actor)))


def right_in(session: Session, actor: Actor, collection: Collection) -> Right | None:
    """What ``actor`` may do in ``collection``; None if they may not even see it."""
    right = _right_of_account(session, actor, collection)
    return None if right is None else _limited(actor, right)


def _limited(actor: Actor, right: Right) -> Right | None:
    return None if actor.scope is None else min(right, _MAX[actor.scope])


def _right_of_account(session: Session, actor: Actor, collection: Collection) -> Right | None:
    if actor.role is Role.ADMIN:
        return Right.MANAGE
    may_change = actor.role is Role.EDITOR
    if collection.owner_id == actor.id:
        return Right.MANAGE if may_change else Right.SEE
    member = session.get(CollectionMember, (collection.id, actor.id))
    if member is not None:
        return Right.CHANGE if may_change and member.role is MemberRole.EDITOR else Right.SEE
    return Right.SEE if collection.visibility is Visibility.EVERYONE else None


def collection_for(session: Session, actor: Actor, collection_id: UUID, right: Right = Right.SEE) -> Collection:
    """A collection in which ``actor`` has that right.

    Raises:
        NotFound: there is none; one that this account may not see looks the same as none.
        Forbidden: they see it, and may not do that there.
    """
    collection = session.get(Collection, collection_id)
    has = _right_of_account(session, actor, collection) if collection is not None else None
    if collection is None or has is None:
        raise NotFound("There is no such collection.")
    if has < right:
        raise Forbidden(_REFUSED[right])
    require_scope(actor, next(scope for scope in TokenScope if _MAX[scope] >= right))
    return collection


def item_for(session: Session, actor: Actor, item_id: UUID, right: Right = Right.SEE) -> Item:
    """An item, whatever its state, of a collection in which ``actor`` has that right.

    Raises:
        NotFound: there is none that this account may see.
        Forbidden: they see it, and may not do that.
    """
    item = session.get(Item, item_id)
    try:
        if item is not None:
            collection_for(session, actor, item.collection_id, right)
            return item
    except NotFound:
        pass
    raise NotFound("There is no such item.")


def job_for(session: Session, actor: Actor, job_id: UUID) -> Job:
    """A job on a collection that ``actor`` may see.

    Raises:
        NotFound: there is none that this account may see.
    """
    job = session.scalar(sa.select(Job).where(Job.id == job_id, within_visible(actor, Job.collection_id)))
    if job is None:
        raise NotFound("There is no such job.")
    return job


def require_job_rights(session: Session, actor: Actor, job: Job) -> None:
    """Refuse to let ``actor`` stop, retry or delete a job that is not theirs, in a collection they may not change.

    Raises:
        NotFound: they may not see it.
        Forbidden: they see it, and it is somebody else's.
    """
    collection = session.get_one(Collection, job.collection_id)
    has = right_in(session, actor, collection)
    if has is None:
        raise NotFound("There is no such job.")
    if has < Right.CHANGE and job.user_id != actor.id:
        raise Forbidden("This job is somebody else's: its owner and the editors of the collection may do that.")


def changeable_jobs(actor: Actor) -> sa.ColumnElement[bool]:
    """True for the jobs that ``actor`` may stop, retry and delete, among those that they see (see ``demand_job``)."""
    own = Job.user_id == actor.id
    if actor.role is Role.VIEWER or not has_scope(actor, TokenScope.CHANGE):
        return own
    if actor.role is Role.ADMIN:
        return sa.true()
    edited = sa.select(CollectionMember.collection_id).where(
        CollectionMember.user_id == actor.id, CollectionMember.role == MemberRole.EDITOR
    )
    owned = sa.select(Collection.id).where(Collection.owner_id == actor.id)
    return sa.or_(own, Job.collection_id.in_(edited), Job.collection_id.in_(owned))


def require_role(actor: Actor, *roles: Role) -> None:
    """Refuse unless ``actor`` has one of these roles, and a token that may do what such a role is for.

    Raises:
        Forbidden: they have another one, or their token has a smaller scope.
    """
    if actor.role not in roles:
        needed = " or ".join(sorted(role.value for role in roles))
        raise Forbidden(f"This needs an account with the role {needed}; yours is {actor.role.value}.")
    require_scope(actor, TokenScope.CHANGE if Role.EDITOR in roles else TokenScope.MANAGE)
