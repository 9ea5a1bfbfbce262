"""Authentication: bearer tokens for programs, login sessions for pages."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, suppress
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
from retllm.identity import accounts, audit, links, logins, tokens
from retllm.identity.access import require_scope
from retllm.identity.actor import Actor
from retllm.identity.audit import Action
from retllm_web.http import devices, login_throttle
from retllm_web.http.lines import Line
from retllm_web.http.login_throttle import LoginThrottle
from retllm_web.http.services import services


class _Csrf(CSRFProtect):  # type: ignore[misc]  # flask_wtf ships no types
    """Takes the token from the header if it is there, so that the body is not read for it."""

    def _get_csrf_token(self) -> str | None:
        for name in current_app.config["WTF_CSRF_HEADERS"]:
            if token := request.headers.get(name):
                return token
        found: str | None = super()._get_csrf_token()
        return found


csrf = _Csrf()

# methods that change nothing
_SAFE = ("GET", "HEAD", "OPTIONS")
# routes that change nothing, but are asked with more than fits into an address
_READING = ("api.download_items",)
_EXTENSION = "retllm_login_throttle"
# a hash takes four threads for a tenth of a second
_LINES = "retllm_password_lines"
_THREADS_OF_HASH = 4
_MAX_WAITING = 2
_RETRY_SECONDS = 2


class Account(UserMixin):  # type: ignore[misc]  # flask_login ships no types
    """A logged-in account for Flask-Login; ``user`` is the row, detached from any database session."""

    def __init__(self, user: User, login_id: UUID) -> None:
        self.user = user
        self.actor = Actor.unlimited(user)
        self.login_id = login_id

    def get_id(self) -> str:
        """Return the key of the login session, which the cookie contains."""
        return str(self.login_id)


def install(app: Flask, redis_url: str | None) -> None:
    """Register login sessions, CSRF protection and the throttle of failed log-ins on ``app``."""
    manager = LoginManager(app)
    manager.login_view = "pages.login"
    # sessions end in the database; a change of the browser's address does not end them
    manager.session_protection = None
    manager.user_loader(_load)
    csrf.init_app(app)
    app.extensions[_EXTENSION] = LoginThrottle(redis_url, str(app.config["SECRET_KEY"]))
    places = max(1, (os.cpu_count() or 1) // _THREADS_OF_HASH)
    app.extensions[_LINES] = {known: Line(places, _MAX_WAITING, _RETRY_SECONDS) for known in (True, False)}


def throttle() -> LoginThrottle:
    """Return the counters of failed log-ins."""
    found: LoginThrottle = current_app.extensions[_EXTENSION]
    return found


def hashing(*, known: bool = True) -> AbstractContextManager[None]:
    """Hash passwords inside this context only: few requests do that at a time, and hold a database connection for it.

    Args:
        known: an account is logged in, or was before in this browser; others have a line of their own, so that they
            can't keep these out.

    Raises:
        Busy: too many requests wait for that already.
    """
    line: Line = current_app.extensions[_LINES][known]
    return line.place()


def token_key() -> bytes:
    """Return the key for the digests of tokens."""
    return tokens.key_from(str(current_app.config["SECRET_KEY"]))


def link_key() -> bytes:
    """Return the key for the digests of links."""
    return links.link_key(str(current_app.config["SECRET_KEY"]))


def idle() -> timedelta:
    """Return how long a login session may be idle before it expires."""
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
    """Start a login session, and record the success or the failure in the audit log.

    Raises:
        Unauthorized: name or password is wrong.
        TooManyTries: too many attempts failed for this name or from this address.
        Busy: too many others log in at the moment.
    """
    where = request.remote_addr
    account, browser = login_throttle.account(name), devices.known(name)
    # wrong passwords of others do not count where the owner logged in before, nor these for others
    sources = (login_throttle.browser(browser),) if browser else (account, *login_throttle.addresses(where))
    _check_throttle(name, sources)
    with hashing(known=browser is not None):
        # those who waited for a place did not count each other
        _check_throttle(name, sources)
        try:
            with transaction(services().sessions) as session:
                user = accounts.log_in(session, name, password)
                audit.record(session, user, Action.LOGGED_IN, target=user.name, target_id=user.id, address=where)
                begun = logins.begin(session, user, address=where, agent=request.user_agent.string)
        except Unauthorized:
            throttle().count_failure(*sources)
            with transaction(services().sessions) as session:
                # people also type their password here
                said = {"name": found} if (found := accounts.name_of(session, name)) else {"no_account": True}
                audit.record(session, None, Action.LOGIN_REFUSED, address=where, **said)
            raise
    # do not reset the address: with an account of their own, an attacker could reset it at will
    throttle().reset(sources[0])
    devices.remember(name)
    _start_session(user, begun.id)
    return user


def _check_throttle(name: str, sources: tuple[login_throttle.Source, ...]) -> None:
    """Reject a log-in after too many failures.

    Failures from many addresses block a name, except at addresses where its owner logged in recently.

    Raises:
        TooManyTries: there were too many failures.
    """
    first, *others = sources
    if others:
        throttle().check(*others)
    try:
        throttle().check(first)
    except TooManyTries:
        if not others:
            raise
        with transaction(services().sessions) as session:
            if not logins.is_known_at(session, name, request.remote_addr):
                raise


def _start_session(user: User, login_id: UUID) -> None:
    """Replace the content of this browser's cookie by a login session."""
    cookie.clear()
    flask_login.login_user(Account(user, login_id))


def change_password(old: str, new: str) -> None:
    """Change the user's own password: every session ends, and this browser gets a new one.

    Raises:
        InvalidInput: the old password is wrong, or the new one is invalid; ``field`` says which.
        TooManyTries: too many attempts failed in this session.
        Busy: too many others log in at the moment.
    """
    me, where, login_id = current_actor(), request.remote_addr, current_login()
    if login_id is None:
        raise Unauthorized()
    # not counted against name and address, which others could use up, nor these against the owner
    source = login_throttle.session(login_id)
    throttle().check(source)
    try:
        with hashing(), transaction(services().sessions) as session:
            user = session.get_one(User, me.id)
            accounts.change_password(session, user, old, new)
            audit.record(session, user, Action.PASSWORD_CHANGED, target=user.name, target_id=user.id, address=where)
            begun = logins.begin(session, user, address=where, agent=request.user_agent.string)
    except InvalidInput as error:
        if error.detail.get("field") == "old":
            throttle().count_failure(source)
        raise
    _start_session(user, begun.id)


def log_out() -> None:
    """End the login session, also for copies of this browser's cookie."""
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
    """Return the account that this request acts for, with its scope.

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
    """Return the login session of this request; None if a token was sent."""
    found: UUID | None = getattr(flask_login.current_user, "login_id", None)
    return found


def authenticate() -> None:
    """Authenticate an API request; a login session also needs :func:`require_csrf_token`.

    Raises:
        Unauthorized: there is no valid token and no login session.
        TooManyTries: the token is invalid, and there were too many invalid ones before.
        Forbidden: the token has the scope `read`, and the request may change something.
    """
    header = request.headers.get("Authorization")
    if header is None:
        current_actor()
        return
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthorized()
    g.actor = _holder(token.strip())
    if request.method not in _SAFE and request.endpoint not in _READING:
        require_scope(g.actor, TokenScope.SEARCH)


def require_csrf_token() -> None:
    """Require the CSRF token of a login session for a change, from the header or else from the form, which is read.

    Raises:
        CSRFError: it is missing or wrong.
    """
    if g.get("actor") is None:
        csrf.protect()


def _holder(token: str) -> Actor:
    try:
        with transaction(services().sessions) as session:
            return tokens.holder(session, token_key(), token)
    except Unauthorized:
        # tokens cannot be guessed, so requests with a valid one are never throttled
        sources = login_throttle.addresses(request.remote_addr, "tokens")
        throttle().check(*sources)
        throttle().count_failure(*sources)
        raise
