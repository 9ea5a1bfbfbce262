"""Access rights, which follow from the role of the account, its membership and the scope of its token.

All access checks are here. A hidden object gives the same 404 as a missing one; a forbidden action gives 403.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from enum import IntEnum
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute, Session

from retllm.db.deletion import WITH_DELETED
from retllm.db.enums import JobKind, MemberRole, Positions, Role, TokenScope, Visibility
from retllm.db.jobs import Job
from retllm.db.people import CollectionMember
from retllm.db.searches import SearchCollection
from retllm.db.tables import Collection, Item, User, is_kept
from retllm.errors import Forbidden, NotFound
from retllm.identity.actor import Actor

_OfActor = Callable[[Actor], sa.ColumnElement[bool]]
Column = sa.ColumnElement[UUID] | InstrumentedAttribute[UUID] | InstrumentedAttribute[UUID | None]


class Right(IntEnum):
    """What an account may do in a collection; each right includes those before it."""

    SEE = 1  # view items and results, search, review
    CHANGE = 2  # upload, index, change and delete items, cancel and delete all jobs
    MANAGE = 3  # manage members and visibility, choose the embedder, delete the collection


_REFUSED = {
    Right.CHANGE: "You can view and search this collection. To change it, ask its owner to make you an editor.",
    Right.MANAGE: "Only the owner of this collection and administrators can do that.",
}


# the maximum right in a collection for each token scope
_MAX = {
    TokenScope.READ: Right.SEE,
    TokenScope.SEARCH: Right.SEE,
    TokenScope.CHANGE: Right.CHANGE,
    TokenScope.MANAGE: Right.MANAGE,
}
_SCOPES = list(TokenScope)


def has_scope(actor: Actor, required: TokenScope) -> bool:
    """Return whether the scope of ``actor`` includes ``required``."""
    return actor.scope is not None and _SCOPES.index(actor.scope) >= _SCOPES.index(required)


def require_scope(actor: Actor, required: TokenScope) -> None:
    """Require a scope.

    Raises:
        Forbidden: the scope of ``actor`` does not include it.
    """
    if not has_scope(actor, required):
        raise Forbidden(
            f"This token has {f'the scope {actor.scope.value}' if actor.scope else 'no scope'}, "
            f"but this needs {required.value}. "
            f"Create another token with `retllm token create USER --scope {required.value}`.",
            scope=required.value,
        )


def is_admin(actor: Actor) -> bool:
    """Return whether ``actor`` has all rights of an administrator."""
    return actor.role is Role.ADMIN and has_scope(actor, TokenScope.MANAGE)


def _kept_for_each_account(make: _OfActor) -> _OfActor:
    """Make a condition once for each account, role and scope: a page needs it several times, and to make it is slow."""

    @functools.lru_cache(maxsize=256)
    def made(user_id: UUID, role: Role, scope: TokenScope | None) -> sa.ColumnElement[bool]:
        return make(Actor(User(id=user_id, name="", role=role), scope))

    @functools.wraps(make)
    def condition(actor: Actor) -> sa.ColumnElement[bool]:
        return made(actor.id, actor.role, actor.scope)

    return condition


@_kept_for_each_account
def visible_collections(actor: Actor) -> sa.ColumnElement[bool]:
    """Return a condition for the collections that ``actor`` may see: owned, member of, or visible to everyone."""
    if not has_scope(actor, TokenScope.READ):
        return sa.false()
    if actor.role is Role.ADMIN:
        return sa.true()
    joined = sa.select(CollectionMember.collection_id).where(CollectionMember.user_id == actor.id)
    return sa.or_(
        Collection.owner_id == actor.id, Collection.visibility == Visibility.EVERYONE, Collection.id.in_(joined)
    )


@_kept_for_each_account
def changeable_collections(actor: Actor) -> sa.ColumnElement[bool]:
    """Return a condition for the collections that ``actor`` may change, see ``Right.CHANGE``."""
    if not has_scope(actor, TokenScope.CHANGE) or actor.role is Role.VIEWER:
        return sa.false()
    if actor.role is Role.ADMIN:
        return sa.true()
    return sa.or_(Collection.owner_id == actor.id, Collection.id.in_(_edited(actor)))


def kept_collections(actor: Actor) -> sa.ColumnElement[bool]:
    """Return a condition for the collections in the trash that ``actor`` may restore; see ``db.deletion``."""
    if not has_scope(actor, TokenScope.MANAGE) or actor.role is Role.VIEWER:
        return sa.false()
    return is_kept() if actor.role is Role.ADMIN else sa.and_(is_kept(), Collection.owner_id == actor.id)


def _edited(actor: Actor) -> sa.Select[UUID]:
    """Return the collections of others that ``actor`` is an editor of."""
    return sa.select(CollectionMember.collection_id).where(
        CollectionMember.user_id == actor.id, CollectionMember.role == MemberRole.EDITOR
    )


def within_visible(actor: Actor, collection_id: Column) -> sa.ColumnElement[bool]:
    """Return a condition: the column holds the key of a collection that ``actor`` may see."""
    if actor.role is Role.ADMIN and has_scope(actor, TokenScope.READ):
        return sa.true()
    return collection_id.in_(sa.select(Collection.id).where(visible_collections(actor)))


@_kept_for_each_account
def visible_jobs(actor: Actor) -> sa.ColumnElement[bool]:
    """Return a condition for the jobs that ``actor`` may see: those of a collection that they may see.

    Of a search of several collections one is enough; what it found in the others is left out wherever it is shown.
    """
    theirs = sa.select(sa.true()).where(SearchCollection.search_id == Job.id)
    if actor.role is not Role.ADMIN or not has_scope(actor, TokenScope.READ):
        # an array, so that it is made once and not for each search
        seen = sa.select(Collection.id).where(visible_collections(actor)).correlate(None).scalar_subquery()
        theirs = theirs.where(SearchCollection.collection_id == sa.any_(sa.func.array(seen)))
    # looked up by key, where EXISTS could read the collections of all searches
    some = theirs.limit(1).correlate(Job).scalar_subquery()
    of_several = sa.and_(Job.collection_id.is_(None), some)
    of_one = sa.and_(Job.collection_id.is_not(None), within_visible(actor, Job.collection_id))
    return sa.or_(of_one, of_several)


def right_in(session: Session, actor: Actor, collection: Collection) -> Right | None:
    """Return the right of ``actor`` in ``collection``; None if they may not see it."""
    right = _right_of_account(session, actor, collection)
    return None if right is None else _limited(actor, right)


def gets_originals(session: Session, actor: Actor, collection: Collection) -> bool:
    """Return whether ``actor`` may have the original files of a collection they see; these tell where they were made.

    The scope of a token does not matter: it limits what its account does, not what the account knows.
    """
    if collection.positions is Positions.EVERYONE:
        return True
    right = _right_of_account(session, actor, collection)
    return right is not None and right >= Right.CHANGE


def sees_positions(session: Session, actor: Actor, collection: Collection) -> bool:
    """Return whether ``actor`` may know where the items of a collection they see were made."""
    return collection.positions is not Positions.NOBODY and gets_originals(session, actor, collection)


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


def collection_for(
    session: Session, actor: Actor, collection_id: UUID, right: Right = Right.SEE, *, trashed: bool = False
) -> Collection:
    """Return a collection in which ``actor`` has ``right``; with ``trashed`` also one in the trash.

    Raises:
        NotFound: there is no such collection, or ``actor`` may not see it.
        Forbidden: ``actor`` sees it, but does not have ``right``.
    """
    collection = _also_trashed(session, collection_id) if trashed else session.get(Collection, collection_id)
    granted = _right_of_account(session, actor, collection) if collection is not None else None
    if collection is None or granted is None:
        raise NotFound(f"There is no collection with the id {collection_id}.")
    if granted < right:
        raise Forbidden(_REFUSED[right])
    require_scope(actor, next(scope for scope in TokenScope if _MAX[scope] >= right))
    return collection


def _also_trashed(session: Session, collection_id: UUID) -> Collection | None:
    there = sa.or_(Collection.deleted_at.is_(None), is_kept())
    query = sa.select(Collection).where(Collection.id == collection_id, there)
    return session.scalar(query.execution_options(**WITH_DELETED))


def item_for(session: Session, actor: Actor, item_id: UUID, right: Right = Right.SEE) -> Item:
    """Return an item in any state, of a collection in which ``actor`` has ``right``.

    Raises:
        NotFound: there is no such item, or ``actor`` may not see it.
        Forbidden: ``actor`` sees it, but does not have ``right``.
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
    """Return a job that ``actor`` may see, see ``visible_jobs``.

    Raises:
        NotFound: there is no such job, or ``actor`` may not see it.
    """
    job = session.scalar(sa.select(Job).where(Job.id == job_id, visible_jobs(actor)))
    if job is None:
        raise NotFound("There is no such job.")
    return job


def collections_of(session: Session, actor: Actor, job: Job) -> dict[UUID, str]:
    """Return the names of the collections of a job that ``actor`` may see, by key, in the order of the names."""
    query = sa.select(Collection.id, Collection.name).where(visible_collections(actor))
    if job.collection_id is not None:
        query = query.where(Collection.id == job.collection_id)
    else:
        theirs = sa.select(SearchCollection.collection_id).where(SearchCollection.search_id == job.id)
        query = query.where(Collection.id.in_(theirs))
    return dict(iter(session.execute(query.order_by(Collection.name, Collection.id))))


def require_job_rights(session: Session, actor: Actor, job: Job) -> None:
    """Require the right to cancel, retry or delete a job: it is the actor's own, or they may change its collection.

    A search of several collections is changed by its owner and administrators.

    Raises:
        NotFound: ``actor`` may not see it.
        Forbidden: ``actor`` sees it, but does not have this right, or not the scope that submitting such a job needs.
    """
    granted = _right_in_job(session, actor, job)
    if granted is None:
        raise NotFound("There is no such job.")
    if granted < Right.CHANGE and job.user_id != actor.id:
        others = "the editors of the collection" if job.collection_id is not None else "administrators"
        raise Forbidden(f"This job belongs to another account. Only its owner and {others} can do that.")
    require_scope(actor, TokenScope.SEARCH if job.kind is JobKind.SEARCH else TokenScope.CHANGE)


def _right_in_job(session: Session, actor: Actor, job: Job) -> Right | None:
    if job.collection_id is not None:
        return right_in(session, actor, session.get_one(Collection, job.collection_id))
    if session.scalar(sa.select(Job.id).where(Job.id == job.id, visible_jobs(actor))) is None:
        return None
    return _limited(actor, Right.MANAGE if actor.role is Role.ADMIN else Right.SEE)


def changeable_jobs(actor: Actor) -> sa.ColumnElement[bool]:
    """Return a condition for the jobs that ``actor`` may change, see ``require_job_rights``."""
    own = Job.user_id == actor.id
    if not has_scope(actor, TokenScope.CHANGE):
        searches = sa.and_(own, Job.kind == JobKind.SEARCH)
        return searches if has_scope(actor, TokenScope.SEARCH) else sa.false()
    if actor.role is Role.VIEWER:
        return own
    if actor.role is Role.ADMIN:
        return sa.true()
    owned = sa.select(Collection.id).where(Collection.owner_id == actor.id)
    theirs = sa.or_(Job.collection_id.in_(_edited(actor)), Job.collection_id.in_(owned))
    # false and not null for a search of several, since its opposite is asked for too
    return sa.or_(own, sa.and_(Job.collection_id.is_not(None), theirs))


def require_role(actor: Actor, *roles: Role) -> None:
    """Require one of these roles, and the scope that it needs.

    Raises:
        Forbidden: ``actor`` has another role, or a smaller scope.
    """
    if actor.role not in roles:
        needed = " or ".join(sorted(role.value for role in roles))
        advice = " Ask an administrator to make you an editor." if Role.EDITOR in roles else ""
        raise Forbidden(f"This needs the role {needed}; your role is {actor.role.value}.{advice}")
    require_scope(actor, TokenScope.CHANGE if Role.EDITOR in roles else TokenScope.MANAGE)
