"""Login sessions of browsers: kept here, so that they can be seen and ended; the cookie only names one."""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.tables import Login, User, new_id
from retllm.errors import NotFound

# a session that is looked at less exactly than this costs a write at every request
_SEEN_EVERY = timedelta(minutes=1)
# how long ago an account may have been used from an address for it to be known there; older sessions that are over go
_KNOWN_FOR = timedelta(days=30)
_MAX_AGENT = 300
_MAX_SHOWN = 100


def begin(session: Session, user: User, *, address: str | None, agent: str | None) -> Login:
    """A new session of ``user``; rows of those that were over long ago go."""
    old = sa.func.now() - _KNOWN_FOR
    session.execute(
        sa.delete(Login).where(
            Login.user_id == user.id, sa.func.coalesce(Login.ended_at, Login.seen_at) < old, Login.seen_at < old
        )
    )
    login = Login(id=new_id(), user_id=user.id, address=address, agent=(agent or "")[:_MAX_AGENT] or None)
    session.add(login)
    session.flush()
    return login


def _lasts(idle: timedelta) -> sa.ColumnElement[bool]:
    return sa.and_(Login.ended_at.is_(None), Login.seen_at > sa.func.now() - idle)


def holder(session: Session, login_id: UUID, idle: timedelta) -> User | None:
    """The account of a session that lasts; None if it was ended, or nobody was seen in it for as long as ``idle``."""
    dated = Login.seen_at < sa.func.now() - _SEEN_EVERY
    query = (
        sa.select(User, dated)
        .join(Login, Login.user_id == User.id)
        .where(Login.id == login_id, _lasts(idle), User.disabled_at.is_(None))
    )
    row = session.execute(query).first()
    if row is None:
        return None
    user, seen_long_ago = row
    if seen_long_ago:
        session.execute(sa.update(Login).where(Login.id == login_id).values(seen_at=sa.func.now()))
    return user


def lasting(session: Session, user: User, idle: timedelta) -> list[Login]:
    """The sessions of ``user`` that last, those seen last first, and not more than people read through."""
    query = sa.select(Login).where(Login.user_id == user.id, _lasts(idle)).order_by(Login.seen_at.desc(), Login.id)
    return list(session.scalars(query.limit(_MAX_SHOWN)))


def end(session: Session, user_id: UUID, login_id: UUID) -> None:
    """End a session.

    Raises:
        NotFound: the account has no such session, or it is over.
    """
    if not _end(session, Login.id == login_id, Login.user_id == user_id):
        raise NotFound("There is no such session.")


def end_all(session: Session, user_id: UUID, *, but: UUID | None = None) -> int:
    """End every session of an account, except the one named by ``but``; gives their number."""
    others = [] if but is None else [Login.id != but]
    return _end(session, Login.user_id == user_id, *others)


def _end(session: Session, *which: sa.ColumnElement[bool]) -> int:
    ended = sa.update(Login).where(*which, Login.ended_at.is_(None)).values(ended_at=sa.func.now())
    return len(session.execute(ended.returning(Login.id)).all())


def is_known_at(session: Session, name: str, address: str | None) -> bool:
    """Whether somebody logged in as ``name`` from ``address``, or the same network, in the last month."""
    query = (
        sa.select(Login.address)
        .distinct()
        .join(User, User.id == Login.user_id)
        .where(sa.func.lower(User.name) == name.lower(), Login.seen_at > sa.func.now() - _KNOWN_FOR)
    )
    return network_of(address) in {network_of(one) for one in session.scalars(query)}


def network_of(address: str | None) -> str:
    """What counts as one address: of IPv6 the network of 64 bits, which one customer has whole."""
    try:
        parsed = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return address or "unknown"
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
