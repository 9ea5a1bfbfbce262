"""Accounts and bearer tokens: argon2 for passwords, SHA-256 of a random token for the API."""

from __future__ import annotations

import hashlib
import re
import secrets
import uuid

import sqlalchemy as sa
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy.orm import Session

from retllm.db.enums import Role
from retllm.db.tables import ApiToken, User, new_id
from retllm.errors import Conflict, InvalidInput, NotFound, Unauthorized

TOKEN_PREFIX = "rlm_"  # noqa: S105 - the public beginning of every token, no secret
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}")
_LEAST_PASSWORD = 10
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
        raise InvalidInput("A user name has 1 to 100 letters, digits or . _ @ + - and starts with a letter or digit.")
    if len(password) < _LEAST_PASSWORD:
        raise InvalidInput(f"A password has at least {_LEAST_PASSWORD} characters.")
    if session.scalar(sa.select(User.id).where(sa.func.lower(User.name) == name.lower())):
        raise Conflict(f"There is an account named {name} already.")
    user = User(id=new_id(), name=name, password_hash=_hasher.hash(password), role=role)
    session.add(user)
    session.flush()
    return user


def ensure_admin(session: Session, name: str = "admin") -> tuple[User, str | None]:
    """The first administrator, and the password if the account was made just now (it is shown once)."""
    found = session.scalar(
        sa.select(User).where(User.role == Role.ADMIN, User.disabled_at.is_(None)).order_by(User.id).limit(1)
    )
    if found is not None:
        return found, None
    password = secrets.token_urlsafe(12)
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


def set_password(session: Session, user: User, password: str) -> None:
    """Give ``user`` a new password.

    Raises:
        InvalidInput: it is too short.
    """
    if len(password) < _LEAST_PASSWORD:
        raise InvalidInput(f"A password has at least {_LEAST_PASSWORD} characters.")
    user.password_hash = _hasher.hash(password)
    session.flush()


def check_password(session: Session, name: str, password: str) -> User:
    """The account, if the password is right and the account is not disabled.

    Raises:
        Unauthorized: it is not; the message does not tell which of the two was wrong.
    """
    user = session.scalar(sa.select(User).where(sa.func.lower(User.name) == name.lower()))
    try:
        _hasher.verify(user.password_hash if user else _NOBODY, password)
    except (VerificationError, InvalidHashError):
        user = None
    if user is None or user.disabled_at is not None:
        raise Unauthorized("That name and password do not fit.")
    return user


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def issue_token(session: Session, user: User, name: str) -> str:
    """A new bearer token for ``user``; only its digest is stored, so this is the one time it can be seen."""
    if not 1 <= len(name.strip()) <= 100:
        raise InvalidInput("A token's name has 1 to 100 characters.")
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    session.add(ApiToken(id=new_id(), user_id=user.id, name=name.strip(), digest=_digest(token)))
    session.flush()
    return token


def list_tokens(session: Session, user: User) -> list[ApiToken]:
    """The tokens of ``user`` that still work, oldest first."""
    query = sa.select(ApiToken).where(ApiToken.user_id == user.id, ApiToken.revoked_at.is_(None)).order_by(ApiToken.id)
    return list(session.scalars(query))


def revoke_token(session: Session, user: User, token_id: uuid.UUID) -> None:
    """End a token.

    Raises:
        NotFound: ``user`` has no such token.
    """
    token = session.get(ApiToken, token_id)
    if token is None or token.user_id != user.id or token.revoked_at is not None:
        raise NotFound("There is no such token.")
    token.revoked_at = sa.func.now()
    session.flush()


def user_for_token(session: Session, token: str) -> User:
    """The account that a bearer token stands for.

    Raises:
        Unauthorized: the token is unknown, revoked, or its account is disabled.
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
