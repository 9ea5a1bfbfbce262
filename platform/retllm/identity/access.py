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


# what a token of each scope lets its account do in a collection at most
_MAX = {
    TokenScope.READ: Right.SEE,
    TokenScope.SEARCH: Right.SEE,
    TokenScope.CHANGE: Right.CHANGE,
    TokenScope.MANAGE: Right.MANAGE,
}
_SCOPES = list(TokenScope)
_SCOPE = "scope of the token"


def limit_to(user: User, scope: TokenScope) -> None:
    """Let ``user`` do no more than a token of that scope may, in all that is asked with this very object."""
    sa.inspect(user).info[_SCOPE] = scope


def scope_of(user: User) -> TokenScope:
    """The scope that ``user`` acts in; who is logged in with a password has the widest."""
    scope: TokenScope = sa.inspect(user).info.get(_SCOPE, TokenScope.MANAGE)
    return scope


def has_scope(user: User, least: TokenScope) -> bool:
    """Whether ``user`` acts in this scope or a wider one."""
    return _SCOPES.index(scope_of(user)) >= _SCOPES.index(least)


def require_scope(user: User, least: TokenScope) -> None:
    """Refuse what a token of a smaller scope may not do.

    Raises:
        Forbidden: ``user`` acts by such a token.
    """
    if not has_scope(user, least):
        raise Forbidden(
            f"This token has the scope {scope_of(user).value}, and that needs {least.value}: "
            f"make another one with `retllm token create --scope {least.value}`.",
            scope=least.value,
        )


def is_admin(user: User) -> bool:
    """Whether ``user`` may do whatever administrators may."""
    return user.role is Role.ADMIN and has_scope(user, TokenScope.MANAGE)


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
    right = _right_of_account(session, user, collection)
    return None if right is None else min(right, _MAX[scope_of(user)])


def _right_of_account(session: Session, user: User, collection: Collection) -> Right | None:
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
    has = _right_of_account(session, user, collection) if collection is not None else None
    if collection is None or has is None:
        raise NotFound("There is no such collection.")
    if has < right:
        raise Forbidden(_REFUSED[right])
    if right > _MAX[scope_of(user)]:
        require_scope(user, next(scope for scope in TokenScope if _MAX[scope] >= right))
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


def require_job_rights(session: Session, user: User, job: Job) -> None:
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
    own = Job.user_id == user.id
    if user.role is Role.VIEWER or not has_scope(user, TokenScope.CHANGE):
        return own
    if user.role is Role.ADMIN:
        return sa.true()
    edited = sa.select(CollectionMember.collection_id).where(
        CollectionMember.user_id == user.id, CollectionMember.role == MemberRole.EDITOR
    )
    owned = sa.select(Collection.id).where(Collection.owner_id == user.id)
    return sa.or_(own, Job.collection_id.in_(edited), Job.collection_id.in_(owned))


def require_role(user: User, *roles: Role) -> None:
    """Refuse unless ``user`` has one of these roles, and a token that may do what such a role is for.

    Raises:
        Forbidden: they have another one, or their token has a smaller scope.
    """
    if user.role not in roles:
        needed = " or ".join(sorted(role.value for role in roles))
        raise Forbidden(f"This needs an account with the role {needed}; yours is {user.role.value}.")
    require_scope(user, TokenScope.CHANGE if Role.EDITOR in roles else TokenScope.MANAGE)
