"""Login sessions of browsers, stored so that accounts can list and end them; the cookie holds only the key."""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.tables import Login, User, new_id
from retllm.errors import NotFound
from retllm.identity import names

# update seen_at at most this often, so that not every request writes
_SEEN_EVERY = timedelta(minutes=1)
# how long an account is known at an address; ended sessions are kept this long for it
_KNOWN_FOR = timedelta(days=30)
_MAX_AGENT = 300
_MAX_SHOWN = 100


def begin(session: Session, user: User, *, address: str | None, agent: str | None) -> Login:
    """Create a session of ``user``, and delete their sessions that ended long ago."""
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


def _is_active(idle: timedelta) -> sa.ColumnElement[bool]:
    return sa.and_(Login.ended_at.is_(None), Login.seen_at > sa.func.now() - idle)


def holder(session: Session, login_id: UUID, idle: timedelta) -> User | None:
    """Return the account of a session; None if the session was ended or has not been used for ``idle``."""
    outdated = Login.seen_at < sa.func.now() - _SEEN_EVERY
    query = (
        sa.select(User, outdated)
        .join(Login, Login.user_id == User.id)
        .where(Login.id == login_id, _is_active(idle), User.disabled_at.is_(None))
    )
    row = session.execute(query).first()
    if row is None:
        return None
    user, seen_at_outdated = row
    if seen_at_outdated:
        session.execute(sa.update(Login).where(Login.id == login_id).values(seen_at=sa.func.now()))
    return user


def active(session: Session, user: User, idle: timedelta) -> list[Login]:
    """Return the active sessions of ``user``, last used first, at most 100."""
    query = sa.select(Login).where(Login.user_id == user.id, _is_active(idle)).order_by(Login.seen_at.desc(), Login.id)
    return list(session.scalars(query.limit(_MAX_SHOWN)))


def end(session: Session, user_id: UUID, login_id: UUID) -> None:
    """End a session.

    Raises:
        NotFound: the account has no such session, or it has ended.
    """
    if not _end(session, Login.id == login_id, Login.user_id == user_id):
        raise NotFound("There is no such session.")


def end_all(session: Session, user_id: UUID, *, but: UUID | None = None) -> int:
    """End all sessions of an account except ``but``; return their number."""
    others = [] if but is None else [Login.id != but]
    return _end(session, Login.user_id == user_id, *others)


def _end(session: Session, *conditions: sa.ColumnElement[bool]) -> int:
    ended = sa.update(Login).where(*conditions, Login.ended_at.is_(None)).values(ended_at=sa.func.now())
    return len(session.execute(ended.returning(Login.id)).all())


def is_known_at(session: Session, name: str, address: str | None) -> bool:
    """Return whether ``name`` was logged in from the network of ``address`` in the last 30 days."""
    query = (
        sa.select(Login.address)
        .distinct()
        .join(User, User.id == Login.user_id)
        .where(names.is_named(name), Login.seen_at > sa.func.now() - _KNOWN_FOR)
    )
    return network_of(address) in {network_of(known) for known in session.scalars(query)}


def network_of(address: str | None) -> str:
    """Return the network that counts as one address: an IPv4 address, or a /64 of IPv6, which one customer owns."""
    return _network(address, 32, 64)


def wide_network_of(address: str | None) -> str:
    """Return the network of which one client may have all addresses: a /24 of IPv4, or a /48 of IPv6."""
    return _network(address, 24, 48)


def _network(address: str | None, prefix: int, prefix_6: int) -> str:
    try:
        parsed = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return address or "unknown"
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is None:
            return str(ipaddress.ip_network((parsed, prefix_6), strict=False))
        parsed = parsed.ipv4_mapped
    return str(parsed) if prefix == 32 else str(ipaddress.ip_network((parsed, prefix), strict=False))
