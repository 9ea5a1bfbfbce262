"""Bearer tokens: random, shown once, stored as a digest keyed with the secret key."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import uuid
from datetime import timedelta
from functools import cache

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import TokenScope
from retllm.db.tables import ApiToken, User, new_id
from retllm.errors import InvalidInput, NotFound, Unauthorized
from retllm.identity.access import require_scope
from retllm.identity.actor import Actor
from retllm.identity.secret_key import derived, secret_key
from retllm.settings import Settings

PREFIX = "rlm_"
DEFAULT_DAYS = 90
MAX_DAYS = 3650
DEFAULT_SCOPE = TokenScope.CHANGE
_INVALID = "This token is invalid, expired or revoked. Create a new one with `retllm token create USER`."


def token_key(settings: Settings) -> bytes:
    """Return the key of token digests.

    Raises:
        StackError: there is no usable secret key.
    """
    return key_from(secret_key(settings))


def key_from(secret: str) -> bytes:
    """Derive the key of token digests from the secret key."""
    return derived(secret, "tokens of the API")


def digest_of(key: bytes, secret: str) -> str:
    """Return the digest that is stored of a secret.

    It is looked up, not compared: whoever lacks the key can't choose secrets by their digests, so the time that an
    index takes tells nothing of a stored one.
    """
    return hmac.digest(key, secret.encode(), hashlib.sha256).hex()


def issue(
    session: Session,
    key: bytes,
    actor: Actor,
    name: str,
    *,
    scope: TokenScope = TokenScope.MANAGE,
    days: int | None = None,
) -> tuple[ApiToken, str]:
    """Create a token for ``actor``; return it with its secret, of which only a digest is stored.

    It is valid for ``days``; None: until it is revoked.

    Raises:
        InvalidInput: the name is empty or too long, or the days are not between 1 and ``MAX_DAYS``.
        Forbidden: the scope of ``actor`` does not allow it.
    """
    require_scope(actor, TokenScope.MANAGE)
    if not 1 <= len(name.strip()) <= 100:
        raise InvalidInput("A token's name has 1 to 100 characters.", field="name")
    if days is not None and not 1 <= days <= MAX_DAYS:
        raise InvalidInput(f"A token is valid for 1 to {MAX_DAYS:,} days, or until it is revoked.", field="days")
    secret = PREFIX + secrets.token_urlsafe(32)
    token = ApiToken(id=new_id(), user_id=actor.id, name=name.strip(), digest=digest_of(key, secret), scope=scope)
    if days is not None:
        token.expires_at = sa.func.now() + timedelta(days=days)
    session.add(token)
    session.flush()
    session.refresh(token)
    return token, secret


def _is_active() -> sa.ColumnElement[bool]:
    return sa.and_(
        ApiToken.revoked_at.is_(None),
        sa.or_(ApiToken.expires_at.is_(None), ApiToken.expires_at > sa.func.now()),
    )


def active(session: Session, user: User) -> list[ApiToken]:
    """Return the active tokens of ``user``, oldest first."""
    query = sa.select(ApiToken).where(ApiToken.user_id == user.id, _is_active()).order_by(ApiToken.id)
    return list(session.scalars(query))


def revoke(session: Session, actor: Actor, token_id: uuid.UUID) -> ApiToken:
    """Revoke a token and return it.

    Raises:
        NotFound: ``actor`` has no such token.
        Forbidden: the scope of ``actor`` does not allow it.
    """
    require_scope(actor, TokenScope.MANAGE)
    token = session.scalar(
        sa.select(ApiToken)
        .where(ApiToken.id == token_id, ApiToken.user_id == actor.id, _is_active())
        .with_for_update(key_share=True)
    )
    if token is None:
        raise NotFound("There is no such token.")
    token.revoked_at = sa.func.now()
    session.flush()
    return token


def holder(session: Session, key: bytes, secret: str) -> Actor:
    """Return the account of a token as an actor with its scope.

    Raises:
        Unauthorized: the token is unknown, revoked or expired, or its account is locked.
    """
    row = session.execute(_held(), {"digest": digest_of(key, secret)}).first()
    if row is None:
        raise Unauthorized(_INVALID)
    user, found, is_use_old = row
    if is_use_old:
        _note_use(session, found)
    return Actor(user, found.scope)


@cache
def _held() -> sa.Select[User, ApiToken, bool]:
    """Return the query of a token that can be used, which is built once, since every request needs it.

    It also tells whether the last use is to be noted again.
    """
    is_this = ApiToken.digest == sa.bindparam("digest")
    query = sa.select(User, ApiToken, _is_use_old()).join(ApiToken, ApiToken.user_id == User.id)
    return query.where(is_this, _is_active(), User.disabled_at.is_(None))


def _is_use_old() -> sa.ColumnElement[bool]:
    """The last use is noted at most once a minute."""
    return sa.or_(ApiToken.last_used_at.is_(None), ApiToken.last_used_at < sa.func.now() - timedelta(minutes=1))


def _note_use(session: Session, token: ApiToken) -> None:
    """Update last_used_at, unless another request just did."""
    session.execute(
        sa.update(ApiToken)
        .where(ApiToken.id == token.id, _is_use_old())
        .values(last_used_at=sa.func.now())
        .execution_options(synchronize_session=False)
    )
