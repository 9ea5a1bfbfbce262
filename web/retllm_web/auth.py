"""Who is asking: a bearer token (programs) or the login session (pages)."""

from __future__ import annotations

import hashlib
from uuid import UUID

import flask_login
from flask import Flask, g, request
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from flask_login import LoginManager, UserMixin
from flask_wtf.csrf import CSRFProtect

from retllm import accounts, audit
from retllm.audit import Action
from retllm.db.session import transaction
from retllm.db.tables import User
from retllm.errors import Unauthorized
from retllm_web.services import services

csrf = CSRFProtect()
limiter = Limiter(key_func=get_remote_address, in_memory_fallback_enabled=True, headers_enabled=True)

# guesses at passwords from one address; the page's login view carries it
LOGIN_LIMIT = "10 per minute; 100 per hour"
# so many characters are kept of a name that was tried
_TRIED = 100


class Account(UserMixin):  # type: ignore[misc]  # flask_login ships no types
    """A logged-in user, as Flask-Login wants it; ``user`` is the row, detached from any session."""

    def __init__(self, user: User) -> None:
        self.user = user

    def get_id(self) -> str:
        """The account's key and a trace of its password hash, so that a new password ends every session."""
        return f"{self.user.id}.{hashlib.sha256(self.user.password_hash.encode()).hexdigest()[:16]}"


def install(app: Flask, redis_url: str | None) -> None:
    """Put login sessions, CSRF protection and the rate limiter on ``app``."""
    manager = LoginManager(app)
    manager.login_view = "pages.login"
    manager.session_protection = "basic"
    manager.user_loader(_load)
    csrf.init_app(app)
    app.config["RATELIMIT_STORAGE_URI"] = _limits_url(redis_url)
    limiter.init_app(app)


def _limits_url(redis_url: str | None) -> str:
    if not redis_url:
        return "memory://"
    return f"redis+{redis_url}" if redis_url.startswith("unix:") else redis_url


def _load(session_id: str) -> Account | None:
    try:
        user_id = UUID(session_id.partition(".")[0])
    except ValueError:
        return None
    with transaction(services().sessions) as session:
        user = session.get(User, user_id)
    if user is None or user.disabled_at is not None:
        return None
    account = Account(user)
    return account if account.get_id() == session_id else None


def log_in(name: str, password: str) -> User:
    """Begin a login session; that it began, or was refused, goes into the audit log.

    Raises:
        Unauthorized: name and password do not fit.
    """
    where = request.remote_addr
    try:
        with transaction(services().sessions) as session:
            user = accounts.log_in(session, name, password)
            audit.record(session, user, Action.LOGGED_IN, target=user.name, target_id=user.id, address=where)
    except Unauthorized:
        with transaction(services().sessions) as session:
            audit.record(session, None, Action.LOGIN_REFUSED, address=where, name=name[:_TRIED])
        raise
    flask_login.login_user(Account(user))
    return user


def log_out() -> None:
    """End the login session."""
    flask_login.logout_user()


def current_user() -> User:
    """The account that this request acts for.

    Raises:
        Unauthorized: nobody is logged in and no token was sent.
    """
    found = g.get("user")
    if found is None and flask_login.current_user.is_authenticated:
        found = flask_login.current_user.user
    if not isinstance(found, User):
        raise Unauthorized()
    return found


def authenticate() -> None:
    """Find the account of an API request; a session cookie alone must prove with a CSRF token that it meant it.

    Raises:
        Unauthorized: there is no valid token and no login session.
    """
    header = request.headers.get("Authorization")
    if header is None:
        current_user()
        csrf.protect()
        return
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthorized()
    with transaction(services().sessions) as session:
        g.user = accounts.user_for_token(session, token.strip())
