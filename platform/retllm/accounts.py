"""Accounts and bearer tokens: argon2 for passwords, SHA-256 of a random token for the API."""

from __future__ import annotations

import hashlib
import re
import secrets
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy.orm import Session

from retllm.db.enums import Role
from retllm.db.tables import ApiToken, Collection, User, new_id
from retllm.errors import Conflict, InvalidInput, NotFound, Unauthorized

TOKEN_PREFIX = "rlm_"  # noqa: S105 - the public beginning of every token, no secret
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}")
LEAST_PASSWORD = 10
# more than anybody types; hashing takes time that grows with it
MOST_PASSWORD = 1000
_hasher = PasswordHasher()
# checked when the name is unknown, so that a wrong name takes as long as a wrong password
_NOBODY = _hasher.hash(secrets.token_urlsafe(16))


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
    _check_length(password)
    if session.scalar(sa.select(User.id).where(sa.func.lower(User.name) == name.lower())):
        raise Conflict(f"There is an account named {name} already.")
    user = User(id=new_id(), name=name, password_hash=_hasher.hash(password), role=role)
    session.add(user)
    try:
        session.flush()
    except sa.exc.IntegrityError as error:
        # made by somebody else since the look above
        if "uq_users" not in str(error.orig):
            raise
        raise Conflict(f"There is an account named {name} already.") from error
    return user


def made_up_password() -> str:
    """A password that nobody guesses; show it once and keep it nowhere."""
    return secrets.token_urlsafe(12)


def _check_length(password: str, field: str = "password") -> None:
    if not LEAST_PASSWORD <= len(password) <= MOST_PASSWORD:
        raise InvalidInput(f"A password has {LEAST_PASSWORD} to {MOST_PASSWORD:,} characters.", field=field)


def ensure_admin(session: Session, name: str = "admin") -> tuple[User, str | None]:
    """The first administrator, and the password if the account was made just now (it is shown once)."""
    found = session.scalar(
        sa.select(User).where(User.role == Role.ADMIN, User.disabled_at.is_(None)).order_by(User.id).limit(1)
    )
    if found is not None:
        return found, None
    password = made_up_password()
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
    """Let ``user`` in no more, neither by password nor by token; what is theirs stays.

    Raises:
        Conflict: they are the last administrator who gets in.
    """
    _leave_an_admin(session, user)
    if user.disabled_at is None:
        user.disabled_at = datetime.now(UTC)
    session.flush()


def let_in(session: Session, user: User) -> None:
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
    """Give ``user`` a new password.

    Raises:
        InvalidInput: it is too short or too long.
    """
    _check_length(password)
    user.password_hash = _hasher.hash(password)
    session.flush()


def change_password(session: Session, user: User, old: str, new: str) -> None:
    """Give ``user`` a new password because they know the old one.

    Raises:
        InvalidInput: the old one is wrong, or the new one too short or too long; ``field`` says which.
    """
    if not _fits(user, old):
        raise InvalidInput("That is not your present password.", field="old")
    _check_length(new, field="new")
    set_password(session, user, new)


def _fits(user: User | None, password: str) -> bool:
    try:
        _hasher.verify(user.password_hash if user else _NOBODY, password)
    except (VerificationError, InvalidHashError):
        return False
    return user is not None


def check_password(session: Session, name: str, password: str) -> User:
    """The account, if the password is right and the account is not locked out.

    Raises:
        Unauthorized: it is not; the message does not tell which of the two was wrong.
    """
    user = session.scalar(sa.select(User).where(sa.func.lower(User.name) == name.lower()))
    if not _fits(user, password) or user is None or user.disabled_at is not None:
        raise Unauthorized("That name and password do not fit.")
    return user


def log_in(session: Session, name: str, password: str) -> User:
    """The same as ``check_password``, and keeps when it was.

    Raises:
        Unauthorized: name and password do not fit.
    """
    user = check_password(session, name, password)
    user.last_login_at = datetime.now(UTC)
    session.flush()
    return user


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def issue_token(session: Session, user: User, name: str) -> tuple[ApiToken, str]:
    """A new bearer token for ``user``, and its secret; only a digest is stored, so this is the one time it can be seen.

    Raises:
        InvalidInput: the name is empty or too long.
    """
    if not 1 <= len(name.strip()) <= 100:
        raise InvalidInput("A token's name has 1 to 100 characters.", field="name")
    secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
    token = ApiToken(id=new_id(), user_id=user.id, name=name.strip(), digest=_digest(secret))
    session.add(token)
    session.flush()
    return token, secret


def list_tokens(session: Session, user: User) -> list[ApiToken]:
    """The tokens of ``user`` that still work, oldest first."""
    query = sa.select(ApiToken).where(ApiToken.user_id == user.id, ApiToken.revoked_at.is_(None)).order_by(ApiToken.id)
    return list(session.scalars(query))


def revoke_token(session: Session, user: User, token_id: uuid.UUID) -> ApiToken:
    """End a token, and give it back.

    Raises:
        NotFound: ``user`` has no such token.
    """
    token = session.get(ApiToken, token_id)
    if token is None or token.user_id != user.id or token.revoked_at is not None:
        raise NotFound("There is no such token.")
    token.revoked_at = datetime.now(UTC)
    session.flush()
    return token


def user_for_token(session: Session, token: str) -> User:
    """The account that a bearer token stands for.

    Raises:
        Unauthorized: the token is unknown, revoked, or its account is locked out.
    """
    query = (
        sa.select(User, ApiToken)
        .join(ApiToken, ApiToken.user_id == User.id)
        .where(ApiToken.digest == _digest(token), ApiToken.revoked_at.is_(None), User.disabled_at.is_(None))
    )
    row = session.execute(query).first()
    if row is None:
        raise Unauthorized("This token is not valid (any more). Make a new one with `retllm token create`.")
    user, found = row
    # at most one write a minute, or every request would write
    session.execute(
        sa.update(ApiToken)
        .where(
            ApiToken.id == found.id,
            sa.or_(
                ApiToken.last_used_at.is_(None),
                ApiToken.last_used_at < sa.func.now() - sa.text("interval '1 minute'"),
            ),
        )
        .values(last_used_at=sa.func.now())
    )
    return user
