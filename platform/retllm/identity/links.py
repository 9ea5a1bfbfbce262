"""Links that open a collection, or the result of a search, without an account (design: links).

A link is random, shown once and stored as a keyed digest, as a token is. It opens what its maker may share at that
moment: one collection, or the results of one search, for reading, until it ends or is revoked.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import ItemState, JobKind, Positions, TokenScope
from retllm.db.jobs import Job
from retllm.db.locks import lock_collections
from retllm.db.people import ShareLink
from retllm.db.searches import Candidate, SearchCollection
from retllm.db.tables import Collection, Item, User, new_id
from retllm.errors import Conflict, Forbidden, InvalidInput, NotFound
from retllm.identity.access import Right, collection_for, job_for, require_scope, right_in
from retllm.identity.actor import Actor
from retllm.identity.secret_key import derived
from retllm.identity.tokens import digest_of

PREFIX = "rll_"
DEFAULT_DAYS = 30
MAX_LINKS = 100
"""Links to one collection, or to one result, that are open at a time."""
_GONE = "This link does not exist, or has ended. Ask whoever sent it for a new one."
_NOT_ALL = "Only who manages every collection that was searched can share the result: their owners and administrators."


@dataclass(frozen=True)
class Target:
    """What a link opens: a collection, or the result of a search in these collections.

    Attributes:
        search_id: None for a collection.
    """

    collections: Sequence[Collection]
    search_id: UUID | None = None

    @property
    def collection_id(self) -> UUID | None:
        """The key of the one collection; None for a search of several."""
        return self.collections[0].id if len(self.collections) == 1 else None


@dataclass(frozen=True)
class Opened:
    """What the visitor of a link may see; nothing else.

    Attributes:
        maker: who made the link, with their rights at this moment.
        visitor: the actor of the request, which has no rights.
    """

    link: ShareLink
    maker: Actor
    visitor: Actor
    target: Target

    def has_item(self) -> sa.ColumnElement[bool]:
        """Return a condition for the items that the link opens; what is in the trash is none of them."""
        keys = [collection.id for collection in self.target.collections]
        inside = sa.and_(Item.state == ItemState.READY, Item.collection_id.in_(keys))
        if self.target.search_id is None:
            return inside
        found = sa.select(Candidate.item_id).where(Candidate.search_id == self.target.search_id)
        return sa.and_(inside, Item.id.in_(found))

    def gets_original(self, collection: Collection) -> bool:
        """Return whether a download is the original file; otherwise it is a copy that tells nothing of its making."""
        return self.link.downloads and collection.positions is Positions.EVERYONE


def link_key(secret: str) -> bytes:
    """Derive the key of the digests of links from the secret key."""
    return derived(secret, "links")


def collection_target(session: Session, actor: Actor, collection_id: UUID) -> Target:
    """Return a collection that ``actor`` may share: one that they manage.

    Raises:
        NotFound: there is no such collection, or ``actor`` may not see it.
        Forbidden: ``actor`` does not manage it.
    """
    return Target([collection_for(session, actor, collection_id, Right.MANAGE)])


def search_target(session: Session, actor: Actor, search_id: UUID) -> Target:
    """Return the result of a search that ``actor`` may share: they manage all of its collections that are there.

    Raises:
        NotFound: there is no such search, or ``actor`` may not see it.
        Forbidden: ``actor`` does not manage all of its collections.
    """
    job = job_for(session, actor, search_id)
    require_scope(actor, TokenScope.MANAGE)
    if job.kind is not JobKind.SEARCH:
        raise NotFound("This job is not a search.")
    collections = _searched(session, job)
    if not collections:
        raise NotFound("There is no such search.")
    if not all(right_in(session, actor, collection) is Right.MANAGE for collection in collections):
        raise Forbidden(_NOT_ALL)
    return Target(collections, search_id)


def _searched(session: Session, job: Job) -> list[Collection]:
    query = sa.select(Collection).where(Collection.id == job.collection_id)
    if job.collection_id is None:
        theirs = sa.select(SearchCollection.collection_id).where(SearchCollection.search_id == job.id)
        query = sa.select(Collection).where(Collection.id.in_(theirs))
    return list(session.scalars(query.order_by(Collection.id)))


def make(
    session: Session, key: bytes, actor: Actor, target: Target, name: str, *, days: int, longest: int, downloads: bool
) -> tuple[ShareLink, str]:
    """Create a link; return it with its secret, of which only a digest is stored.

    Args:
        days: after how many it ends.
        longest: how many the settings allow; 0 if links are off.
        downloads: whether its visitors may download pictures, and whole files.

    Raises:
        Forbidden: links are off.
        InvalidInput: the name is empty or too long, or the days are not between 1 and ``longest``.
        NotFound: what it is to open was deleted in the meantime.
        Conflict: there are ``MAX_LINKS`` already.
    """
    if not longest:
        raise Forbidden("Links are turned off on this server. Its administrator can allow them: RETLLM_LINK_DAYS.")
    if not 1 <= len(name.strip()) <= 100:
        raise InvalidInput("Say in 1 to 100 characters what the link is for.", field="name")
    if not 1 <= days <= longest:
        raise InvalidInput(f"A link ends after 1 to {longest:,} days (RETLLM_LINK_DAYS).", field="days")
    _lock(session, target)
    same = _of(target)
    session.execute(sa.delete(ShareLink).where(same, ShareLink.expires_at <= sa.func.now()))
    if (session.scalar(sa.select(sa.func.count()).select_from(ShareLink).where(same)) or 0) >= MAX_LINKS:
        raise Conflict(f"There are {MAX_LINKS} links to it already. Revoke one that nobody needs any more.")
    secret = PREFIX + secrets.token_urlsafe(32)
    link = ShareLink(
        id=new_id(),
        collection_id=target.collection_id,
        search_id=target.search_id,
        user_id=actor.id,
        name=name.strip(),
        digest=digest_of(key, secret),
        downloads=downloads,
        expires_at=sa.func.now() + timedelta(days=days),
    )
    session.add(link)
    session.flush()
    session.refresh(link)
    return link, secret


def _lock(session: Session, target: Target) -> None:
    """Keep what a link is to open until the transaction ends.

    Raises:
        NotFound: it was deleted.
    """
    keys = [collection.id for collection in target.collections]
    is_there = len(lock_collections(session, Collection.id.in_(keys))) == len(keys)
    if target.search_id is not None:
        job = sa.select(Job.id).where(Job.id == target.search_id)
        is_there = is_there and session.scalar(job.with_for_update(read=True, key_share=True)) is not None
    if not is_there:
        raise NotFound("It was deleted in the meantime.")


def _of(target: Target) -> sa.ColumnElement[bool]:
    if target.search_id is not None:
        return ShareLink.search_id == target.search_id
    return sa.and_(ShareLink.collection_id == target.collection_id, ShareLink.search_id.is_(None))


def _is_open(longest: int) -> sa.ColumnElement[bool]:
    now = sa.func.now()
    return sa.and_(ShareLink.expires_at > now, ShareLink.created_at > now - timedelta(days=longest))


def end_of(link: ShareLink, longest: int) -> datetime:
    """Return when a link ends, by its own days and by those that the settings allow."""
    return min(link.expires_at, link.created_at + timedelta(days=longest))


def page(
    session: Session, target: Target, *, longest: int, after: UUID | None = None, limit: int = 50
) -> list[tuple[ShareLink, str]]:
    """Return links that have not ended, newest first, each with the name of its maker.

    Those of a collection include those to results of searches in it. ``after`` is the last key of the page before.
    """
    shown = _of(target) if target.search_id is not None else ShareLink.collection_id == target.collection_id
    query = sa.select(ShareLink, User.name).join(User, User.id == ShareLink.user_id).where(shown, _is_open(longest))
    if after is not None:
        query = query.where(ShareLink.id < after)
    return [(link, name) for link, name in session.execute(query.order_by(ShareLink.id.desc()).limit(limit))]


def revoke(session: Session, actor: Actor, link_id: UUID) -> ShareLink:
    """Delete a link to what ``actor`` may share, and return it.

    Raises:
        NotFound: there is no such link, or ``actor`` may not see what it opens.
        Forbidden: ``actor`` sees that, but may not share it.
    """
    link = session.scalar(sa.select(ShareLink).where(ShareLink.id == link_id).with_for_update())
    try:
        if link is not None:
            _target_of(session, actor, link)
            session.delete(link)
            session.flush()
            return link
    except NotFound:
        pass
    raise NotFound("There is no such link.")


def open_link(session: Session, key: bytes, secret: str, *, longest: int) -> Opened:
    """Return what a link opens.

    It opens nothing once it was revoked or has ended, or its maker is locked out or may not share that any more.

    Args:
        longest: after how many days any link ends.

    Raises:
        NotFound: it opens nothing; the message is always the same.
    """
    query = sa.select(ShareLink, User).join(User, User.id == ShareLink.user_id)
    query = query.where(ShareLink.digest == digest_of(key, secret), _is_open(longest), User.disabled_at.is_(None))
    row = session.execute(query).one_or_none()
    if row is None:
        raise NotFound(_GONE)
    link, user = row
    maker = Actor.unlimited(user)
    try:
        target = _target_of(session, maker, link)
    except (NotFound, Forbidden):
        raise NotFound(_GONE) from None
    return Opened(link, maker, Actor.visitor(link.id, maker.id), target)


def _target_of(session: Session, actor: Actor, link: ShareLink) -> Target:
    if link.search_id is not None:
        return search_target(session, actor, link.search_id)
    assert link.collection_id is not None
    return collection_target(session, actor, link.collection_id)


def note_use(session: Session, link: ShareLink, *, opened: bool) -> None:
    """Note that a link is used, at most once a minute; with ``opened`` count it too, each time."""
    minute_ago = sa.func.now() - timedelta(minutes=1)
    late = sa.or_(ShareLink.last_used_at.is_(None), ShareLink.last_used_at < minute_ago)
    session.execute(
        sa.update(ShareLink)
        .where(ShareLink.id == link.id, sa.true() if opened else late)
        .values(last_used_at=sa.func.now(), uses=ShareLink.uses + int(opened))
        .execution_options(synchronize_session=False)
    )
