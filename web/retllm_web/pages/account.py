"""The account page: one's own password, and bearer tokens for programs."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

import flask_login
from flask import flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from retllm import accounts
from retllm.audit import Action
from retllm.db.session import transaction
from retllm.db.tables import User
from retllm.errors import InvalidInput, RetllmError
from retllm_web.auditing import note
from retllm_web.auth import LOGIN_LIMIT, Account, current_user, limiter
from retllm_web.pages.blueprint import pages, refused
from retllm_web.pages.forms import Form
from retllm_web.services import services


@dataclass
class Said:
    """What the forms of the page have to say; ``made`` is a new token."""

    token: Form = field(default_factory=Form)
    password: Form = field(default_factory=Form)
    made: str | None = None
    status: int = 200


def _page(said: Said) -> ResponseReturnValue:
    with transaction(services().sessions) as session:
        tokens = accounts.list_tokens(session, current_user())
    address = request.url_root.rstrip("/")
    shown = {"tokens": tokens, "said": said, "address": address, "least": accounts.LEAST_PASSWORD}
    return render_template("account.html", **shown), said.status


@pages.get("/account")
def account() -> ResponseReturnValue:
    """Who is logged in, and their tokens."""
    return _page(Said())


@pages.post("/account/password")
@limiter.limit(LOGIN_LIMIT)
def change_password() -> ResponseReturnValue:
    """Change one's own password; this browser stays logged in, every other one does not."""
    form = Form.sent()
    old, new = (str(form.values.get(name, "")) for name in ("old", "new"))
    try:
        with transaction(services().sessions) as session:
            user = session.get_one(User, current_user().id)
            if new != form.values.get("again"):
                raise InvalidInput("The two new passwords differ: type the same one twice.", field="again")
            accounts.change_password(session, user, old, new)
            note(session, Action.PASSWORD_CHANGED, target=user.name, target_id=user.id)
    except RetllmError as error:
        form.refuse(error, otherwise="old")
        # no password goes back to the browser
        form.values.clear()
        return _page(Said(password=form, status=error.http_status))
    flask_login.login_user(Account(user))
    flash("Your password is changed. Every other browser is logged out; your tokens go on.", "success")
    return redirect(url_for("pages.account"))


@pages.post("/account/tokens")
def create_token() -> ResponseReturnValue:
    """Make a token; this answer is the one place where it is shown."""
    form = Form.sent()
    try:
        with transaction(services().sessions) as session:
            token, secret = accounts.issue_token(session, current_user(), form.text("name"))
            note(session, Action.TOKEN_CREATED, target=token.name, target_id=token.id)
    except RetllmError as error:
        form.refuse(error, otherwise="name")
        return _page(Said(token=form, status=error.http_status))
    return _page(Said(made=secret))


@pages.post("/account/tokens/<uuid:token_id>/revoke")
def revoke_token(token_id: UUID) -> ResponseReturnValue:
    """End a token."""
    here = url_for("pages.account")
    try:
        with transaction(services().sessions) as session:
            ended = accounts.revoke_token(session, current_user(), token_id)
            note(session, Action.TOKEN_REVOKED, target=ended.name, target_id=ended.id)
    except RetllmError as error:
        return refused(error, here)
    flash("The token is revoked: programs that use it are refused from now on.", "success")
    return redirect(here)
