"""Accounts: create, list, change and lock them, and check passwords."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import Role
from retllm.db.tables import Collection, User, new_id
from retllm.errors import Conflict, InvalidInput, NotFound, Unauthorized
from retllm.identity import logins, names, passwords


def create_user(session: Session, name: str, password: str, role: Role = Role.EDITOR) -> User:
    """Create an account.

    Raises:
        InvalidInput: the name or the password is invalid.
        Conflict: the name is taken.
    """
    name = names.check(name)
    passwords.check(password, name)
    if session.scalar(sa.select(User.id).where(names.is_named(name))):
        raise Conflict(f"An account named {name} already exists.")
    user = User(id=new_id(), name=name, password_hash=passwords.hashed(password), role=role)
    session.add(user)
    try:
        session.flush()
    except sa.exc.IntegrityError as error:
        # another transaction created it after the check above
        if "uq_users" not in str(error.orig):
            raise
        raise Conflict(f"An account named {name} already exists.") from error
    return user


def ensure_admin(session: Session, name: str = "admin") -> tuple[User, str | None]:
    """Return the first administrator; create one if there is none, and return its password too (shown once)."""
    found = session.scalar(
        sa.select(User).where(User.role == Role.ADMIN, User.disabled_at.is_(None)).order_by(User.id).limit(1)
    )
    if found is not None:
        return found, None
    password = passwords.generate()
    return create_user(session, name, password, Role.ADMIN), password


def find_user(session: Session, name: str) -> User:
    """Return the account with this name.

    Raises:
        NotFound: there is no such account.
    """
    user = session.scalar(sa.select(User).where(names.is_named(name)))
    if user is None:
        raise NotFound(f"There is no account named {name}.")
    return user


def name_of(session: Session, name: str) -> str | None:
    """Return the account's name as it is written; None if no account is named so."""
    return session.scalar(sa.select(User.name).where(names.is_named(name)))


@dataclass(frozen=True)
class Listed:
    """An account in a list, with the number of collections that it owns."""

    user: User
    collections: int

    @property
    def id(self) -> uuid.UUID:
        """Return the key of the account."""
        return self.user.id


def list_users(
    session: Session, *, q: str | None = None, after: uuid.UUID | None = None, limit: int = 50
) -> list[Listed]:
    """Return accounts whose name contains ``q``, oldest first; ``after`` is the last key of the page before."""
    query = sa.select(User).order_by(User.id).limit(limit)
    if q:
        query = query.where(User.name.icontains(names.written(q), autoescape=True))
    if after is not None:
        query = query.where(User.id > after)
    return listed(session, session.scalars(query).all())


def every_user(session: Session) -> Iterator[Listed]:
    """Yield all accounts, oldest first, read in pages."""
    page = list_users(session)
    while page:
        yield from page
        page = list_users(session, after=page[-1].id)


def listed(session: Session, users: Sequence[User]) -> list[Listed]:
    """Return ``users`` with their counts, by one SQL query."""
    count = sa.select(Collection.owner_id, sa.func.count()).group_by(Collection.owner_id)
    owned = dict(iter(session.execute(count.where(Collection.owner_id.in_([user.id for user in users])))))
    return [Listed(user, owned.get(user.id, 0)) for user in users]


def set_role(session: Session, user: User, role: Role) -> None:
    """Set the role of ``user``.

    Raises:
        Conflict: they are the last active administrator.
    """
    if role is not Role.ADMIN:
        _require_other_admin(session, user)
    user.role = role
    session.flush()


def lock_out(session: Session, user: User) -> None:
    """Lock ``user``: reject the password and all tokens, and end all sessions. Their data stays.

    Raises:
        Conflict: they are the last active administrator.
    """
    _require_other_admin(session, user)
    if user.disabled_at is None:
        user.disabled_at = datetime.now(UTC)
    logins.end_all(session, user.id)
    session.flush()


def unlock(session: Session, user: User) -> None:
    """Unlock ``user``; the password and the tokens work again."""
    user.disabled_at = None
    session.flush()


def _require_other_admin(session: Session, user: User) -> None:
    # lock all administrators: if two transactions take the role from each other's administrator, the second one
    # waits here and then sees the change. Not FOR UPDATE, which would block foreign keys to these accounts
    active = sa.select(User.id).where(User.role == Role.ADMIN, User.disabled_at.is_(None)).order_by(User.id)
    if list(session.scalars(active.with_for_update(key_share=True))) == [user.id]:
        raise Conflict(f"{user.name} is the last administrator. Give another account this role first.")


def set_password(session: Session, user: User, password: str) -> None:
    """Set the password of ``user`` and end all their sessions.

    Raises:
        InvalidInput: it is too short, too long or too easy to guess.
    """
    _set_password(session, user, password, "password")


def _set_password(session: Session, user: User, password: str, field: str) -> None:
    passwords.check(password, user.name, field)
    user.password_hash = passwords.hashed(password)
    logins.end_all(session, user.id)
    session.flush()


def change_password(session: Session, user: User, old: str, new: str) -> None:
    """Change the password of ``user``, who must know the old one.

    Raises:
        InvalidInput: the old password is wrong or the new one is invalid; ``field`` says which.
    """
    if not passwords.matches(user.password_hash, old):
        raise InvalidInput("This is not your current password.", field="old")
    _set_password(session, user, new, "new")


def check_password(session: Session, name: str, password: str) -> User:
    """Return the account if the password is right and the account is not locked.

    Raises:
        Unauthorized: otherwise; the message does not say why.
    """
    user = session.scalar(sa.select(User).where(names.is_named(name)))
    matches = passwords.matches(user.password_hash if user else None, password)
    if not matches or user is None or user.disabled_at is not None:
        raise Unauthorized("Wrong name or password.")
    return user


def log_in(session: Session, name: str, password: str) -> User:
    """Check the password, store the time of the log-in, and rehash the password if its parameters are outdated.

    Raises:
        Unauthorized: see ``check_password``.
    """
    user = check_password(session, name, password)
    if passwords.needs_rehash(user.password_hash):
        user.password_hash = passwords.hashed(password)
    user.last_login_at = datetime.now(UTC)
    session.flush()
    return user
