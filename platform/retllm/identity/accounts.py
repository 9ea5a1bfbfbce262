"""Accounts: who there is, with which role, and who gets in with which password."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import Role
from retllm.db.tables import Collection, User, new_id
from retllm.errors import Conflict, InvalidInput, NotFound, Unauthorized
from retllm.identity import logins, passwords

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}")


def create_user(session: Session, name: str, password: str, role: Role = Role.EDITOR) -> User:
    """A new account.

    Raises:
        InvalidInput: the name or the password can't be accepted.
        Conflict: the name is taken.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            "A user name has 1 to 100 letters, digits or . _ @ + - and starts with a letter or digit.", field="name"
        )
    passwords.check(password, name)
    if session.scalar(sa.select(User.id).where(sa.func.lower(User.name) == name.lower())):
        raise Conflict(f"There is an account named {name} already.")
    user = User(id=new_id(), name=name, password_hash=passwords.hashed(password), role=role)
    session.add(user)
    try:
        session.flush()
    except sa.exc.IntegrityError as error:
        # made by somebody else since the look above
        if "uq_users" not in str(error.orig):
            raise
        raise Conflict(f"There is an account named {name} already.") from error
    return user


def ensure_admin(session: Session, name: str = "admin") -> tuple[User, str | None]:
    """The first administrator, and the password if the account was made just now (it is shown once)."""
    found = session.scalar(
        sa.select(User).where(User.role == Role.ADMIN, User.disabled_at.is_(None)).order_by(User.id).limit(1)
    )
    if found is not None:
        return found, None
    password = passwords.made_up()
    return create_user(session, name, password, Role.ADMIN), password


def find_user(session: Session, name: str) -> User:
    """The account of that name.

    Raises:
        NotFound: there is none.
    """
    user = session.scalar(sa.select(User).where(sa.func.lower(User.name) == name.lower()))
    if user is None:
        raise NotFound(f"There is no account named {name}.")
    return user


@dataclass(frozen=True)
class Listed:
    """An account in a list, with the number of collections that it owns."""

    user: User
    collections: int

    @property
    def id(self) -> uuid.UUID:
        """The account's key."""
        return self.user.id


def list_users(
    session: Session, *, q: str | None = None, after: uuid.UUID | None = None, limit: int = 50
) -> list[Listed]:
    """Accounts, oldest first, whose name has ``q`` in it, in any case; ``after`` is the last key of the page before."""
    query = sa.select(User).order_by(User.id).limit(limit)
    if q:
        query = query.where(User.name.icontains(q, autoescape=True))
    if after is not None:
        query = query.where(User.id > after)
    return listed(session, session.scalars(query).all())


def every_user(session: Session) -> Iterator[Listed]:
    """All accounts, oldest first, read in pages."""
    page = list_users(session)
    while page:
        yield from page
        page = list_users(session, after=page[-1].id)


def listed(session: Session, users: Sequence[User]) -> list[Listed]:
    """``users`` with what is counted of each, by one query."""
    count = sa.select(Collection.owner_id, sa.func.count()).group_by(Collection.owner_id)
    owned = dict(iter(session.execute(count.where(Collection.owner_id.in_([user.id for user in users])))))
    return [Listed(user, owned.get(user.id, 0)) for user in users]


def set_role(session: Session, user: User, role: Role) -> None:
    """Give ``user`` another role.

    Raises:
        Conflict: they are the last administrator who gets in.
    """
    if role is not Role.ADMIN:
        _leave_an_admin(session, user)
    user.role = role
    session.flush()


def lock_out(session: Session, user: User) -> None:
    """Let ``user`` in no more, neither by password nor by token, and end every session; what is theirs stays.

    Raises:
        Conflict: they are the last administrator who gets in.
    """
    _leave_an_admin(session, user)
    if user.disabled_at is None:
        user.disabled_at = datetime.now(UTC)
    logins.end_all(session, user.id)
    session.flush()


def unlock(session: Session, user: User) -> None:
    """Undo ``lock_out``; password and tokens are those of before."""
    user.disabled_at = None
    session.flush()


def _leave_an_admin(session: Session, leaving: User) -> None:
    # locks every administrator: of two who take the role from each other at once, the second waits here and then
    # finds the first one gone. Not FOR UPDATE, for that would hold up whatever points to these accounts by a key
    in_force = sa.select(User.id).where(User.role == Role.ADMIN, User.disabled_at.is_(None)).order_by(User.id)
    if list(session.scalars(in_force.with_for_update(key_share=True))) == [leaving.id]:
        raise Conflict(f"{leaving.name} is the last administrator: make somebody else one first.")


def set_password(session: Session, user: User, password: str) -> None:
    """Give ``user`` a new password, which ends every session of theirs.

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
    """Give ``user`` a new password because they know the old one.

    Raises:
        InvalidInput: the old one is wrong, or the new one can't be accepted; ``field`` says which.
    """
    if not passwords.fits(user.password_hash, old):
        raise InvalidInput("That is not your present password.", field="old")
    _set_password(session, user, new, "new")


def check_password(session: Session, name: str, password: str) -> User:
    """The account, if the password is right and the account is not locked out.

    Raises:
        Unauthorized: it is not; the message does not tell which of the two was wrong.
    """
    user = session.scalar(sa.select(User).where(sa.func.lower(User.name) == name.lower()))
    right = passwords.fits(user.password_hash if user else None, password)
    if not right or user is None or user.disabled_at is not None:
        raise Unauthorized("That name and password do not fit.")
    return user


def log_in(session: Session, name: str, password: str) -> User:
    """The same as ``check_password``; keeps when it was, and the password as one is kept today.

    Raises:
        Unauthorized: name and password do not fit.
    """
    user = check_password(session, name, password)
    if passwords.is_dated(user.password_hash):
        user.password_hash = passwords.hashed(password)
    user.last_login_at = datetime.now(UTC)
    session.flush()
    return user
