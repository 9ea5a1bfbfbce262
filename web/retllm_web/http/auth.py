"""Who is asking: a bearer token (programs) or the login session (pages)."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from uuid import UUID

import flask_login
from flask import Flask, current_app, g, request
from flask import session as cookie
from flask_login import LoginManager, UserMixin
from flask_wtf.csrf import CSRFProtect

from retllm.db.enums import TokenScope
from retllm.db.session import transaction
from retllm.db.tables import User
from retllm.errors import InvalidInput, NotFound, TooManyTries, Unauthorized
from retllm.identity import accounts, audit, logins, tokens
from retllm.identity.access import require_scope
from retllm.identity.actor import Actor
from retllm.identity.audit import Action
from retllm_web.http import login_throttle
from retllm_web.http.login_throttle import LoginThrottle
from retllm_web.http.services import services

csrf = CSRFProtect()

# so many characters are kept of a name that was tried
_TRIED = 100
# these only look
_SAFE = ("GET", "HEAD", "OPTIONS")
_EXTENSION = "retllm_login_throttle"


class Account(UserMixin):  # type: ignore[misc]  # flask_login ships no types
    """A logged-in account, as Flask-Login wants it; ``user`` is the row, detached from any session."""

    def __init__(self, user: User, login_id: UUID) -> None:
        self.user = user
        self.actor = Actor.unlimited(user)
        self.login_id = login_id

    def get_id(self) -> str:
        """The key of the login session, which is what the cookie holds."""
        return str(self.login_id)


def install(app: Flask, redis_url: str | None) -> None:
    """Put login sessions, CSRF protection and the limit on wrong tries on ``app``."""
    manager = LoginManager(app)
    manager.login_view = "pages.login"
    # a session is ended in the database; a browser whose address changes keeps it
    manager.session_protection = None
    manager.user_loader(_load)
    csrf.init_app(app)
    app.extensions[_EXTENSION] = LoginThrottle(redis_url, str(app.config["SECRET_KEY"]))


def tries() -> LoginThrottle:
    """The wrong tries that are counted."""
    found: LoginThrottle = current_app.extensions[_EXTENSION]
    return found


def token_key() -> bytes:
    """The key of the tokens' digests."""
    return tokens.key_from(str(current_app.config["SECRET_KEY"]))


def idle() -> timedelta:
    """How long nobody may be seen in a login session that lasts."""
    return timedelta(days=services().settings.session_days)


def _load(login_id: str) -> Account | None:
    try:
        key = UUID(login_id)
    except ValueError:
        return None
    with transaction(services().sessions) as session:
        user = logins.holder(session, key, idle())
    return Account(user, key) if user else None


def log_in(name: str, password: str) -> User:
    """Begin a login session; that it began, or was refused, goes into the audit log.

    Raises:
        Unauthorized: name and password do not fit.
        TooManyTries: there were too many wrong ones, for this name or from this address.
    """
    where = request.remote_addr
    account, address = login_throttle.account(name), login_throttle.address(where)
    _require_tries(name, account, address)
    try:
        with transaction(services().sessions) as session:
            user = accounts.log_in(session, name, password)
            audit.record(session, user, Action.LOGGED_IN, target=user.name, target_id=user.id, address=where)
            begun = logins.begin(session, user, address=where, agent=request.user_agent.string)
    except Unauthorized:
        tries().wrong(account, address)
        with transaction(services().sessions) as session:
            audit.record(session, None, Action.LOGIN_REFUSED, address=where, name=name[:_TRIED])
        raise
    # not those of the address, or an account of one's own would buy more tries at others
    tries().right(account)
    _enter(user, begun.id)
    return user


def _require_tries(name: str, account: login_throttle.Source, address: login_throttle.Source) -> None:
    """Refuse a try after too many wrong ones.

    Whoever tries a name from many addresses shuts it, but not where its owner logged in of late.

    Raises:
        TooManyTries: there were too many.
    """
    tries().demand(address)
    try:
        tries().demand(account)
    except TooManyTries:
        with transaction(services().sessions) as session:
            if not logins.is_known_at(session, name, request.remote_addr):
                raise


def _enter(user: User, login_id: UUID) -> None:
    """Let this browser hold a login session, and nothing that it held before."""
    cookie.clear()
    flask_login.login_user(Account(user, login_id))


def change_password(old: str, new: str) -> None:
    """Change the password of who is logged in: every session ends, and this browser gets a new one.

    Raises:
        InvalidInput: the old one is wrong, or the new one can't be accepted; ``field`` says which.
        TooManyTries: there were too many wrong ones.
    """
    me, where = current_actor(), request.remote_addr
    account, address = login_throttle.account(me.name), login_throttle.address(where)
    tries().demand(account, address)
    try:
        with transaction(services().sessions) as session:
            user = session.get_one(User, me.id)
            accounts.change_password(session, user, old, new)
            audit.record(session, user, Action.PASSWORD_CHANGED, target=user.name, target_id=user.id, address=where)
            begun = logins.begin(session, user, address=where, agent=request.user_agent.string)
    except InvalidInput as error:
        if error.detail.get("field") == "old":
            tries().wrong(account, address)
        raise
    _enter(user, begun.id)


def log_out() -> None:
    """End the login session, for this browser and for whoever has a copy of its cookie."""
    account = flask_login.current_user
    if account.is_authenticated:
        with transaction(services().sessions) as session:
            user, where = account.user, request.remote_addr
            with suppress(NotFound):
                logins.end(session, user.id, account.login_id)
            audit.record(session, user, Action.LOGGED_OUT, target=user.name, target_id=user.id, address=where)
    flask_login.logout_user()
    cookie.clear()


def current_actor() -> Actor:
    """The account that this request acts for, with its scope.

    Raises:
        Unauthorized: nobody is logged in and no token was sent.
    """
    found = g.get("actor")
    if found is None and flask_login.current_user.is_authenticated:
        found = flask_login.current_user.actor
    if not isinstance(found, Actor):
        raise Unauthorized()
    return found


def current_login() -> UUID | None:
    """The login session of this request; None if a token was sent."""
    found: UUID | None = getattr(flask_login.current_user, "login_id", None)
    return found


def authenticate() -> None:
    """Find the account of an API request; a session cookie alone must prove with a CSRF token that it meant it.

    Raises:
        Unauthorized: there is no valid token and no login session.
        TooManyTries: there is no valid token, and there were too many such before it.
        Forbidden: the token only reads, and the request does more.
    """
    header = request.headers.get("Authorization")
    if header is None:
        current_actor()
        csrf.protect()
        return
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthorized()
    g.actor = _holder(token.strip())
    if request.method not in _SAFE:
        require_scope(g.actor, TokenScope.SEARCH)


def _holder(token: str) -> Actor:
    try:
        with transaction(services().sessions) as session:
            return tokens.holder(session, token_key(), token)
    except Unauthorized:
        # a token is too long to be guessed, so whoever has a valid one is never held up by the wrong ones of others
        address = login_throttle.address(request.remote_addr, "tokens")
        tries().demand(address)
        tries().wrong(address)
        raise
