"""The account page: the user's own password, the logged-in browsers, and bearer tokens for programs."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from flask import flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from retllm.db.enums import TokenScope
from retllm.db.session import transaction
from retllm.errors import InvalidInput, RetllmError
from retllm.identity import logins, passwords, tokens
from retllm.identity.audit import Action
from retllm_web.actions.auditing import record
from retllm_web.http import auth
from retllm_web.http.agents import browser_of
from retllm_web.http.auth import current_actor, current_login, token_key
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages, refused
from retllm_web.pages.forms import Form

SCOPES = {
    # label, permissions
    TokenScope.READ: ("Read", "view and export only"),
    TokenScope.SEARCH: ("Search", "also search and review"),
    TokenScope.CHANGE: ("Change", "also create collections, upload, index and delete items"),
    TokenScope.MANAGE: ("Manage", "all that you may do: also members, queues, people, tokens, deleting collections"),
}
DAYS = {"7": "7 days", "30": "30 days", "90": "90 days", "365": "1 year", "never": "Until revoked"}


@dataclass
class FormFeedback:
    """The results of the page's forms; ``made`` is the secret of a new token."""

    token: Form = field(default_factory=Form)
    password: Form = field(default_factory=Form)
    made: str | None = None
    status: int = 200


@pages.app_context_processor
def _wording() -> dict[str, object]:
    return {"SCOPES": SCOPES, "browser_of": browser_of}


@pages.app_template_filter("in_days")
def in_days(moment: datetime) -> str:
    """Return the time until a future moment, such as "in 3 days"."""
    hours = (moment - datetime.now(UTC)).total_seconds() / 3600
    if hours < 1:
        return "in less than an hour"
    # rounded, so that a token just created for 90 days shows 90
    count, name = (round(hours / 24), "day") if hours >= 24 else (int(hours), "hour")
    return f"in {count} {name}{'' if count == 1 else 's'}"


def _page(feedback: FormFeedback) -> ResponseReturnValue:
    with transaction(services().sessions) as session:
        own = tokens.active(session, current_actor().user)
        browsers = logins.active(session, current_actor().user, auth.idle())
    feedback.token.values = {
        "scope": tokens.DEFAULT_SCOPE.value,
        "days": str(tokens.DEFAULT_DAYS),
    } | feedback.token.values
    shown = {
        "tokens": own,
        "browsers": browsers,
        "here": current_login(),
        "feedback": feedback,
        "address": request.url_root.rstrip("/"),
        "min_password": passwords.MIN,
        "days": DAYS,
    }
    return render_template("account.html", **shown), feedback.status


@pages.get("/account")
def account() -> ResponseReturnValue:
    """Show the account, its logged-in browsers and its tokens."""
    return _page(FormFeedback())


@pages.post("/account/password")
def change_password() -> ResponseReturnValue:
    """Change the user's own password; this browser stays logged in, all others are logged out."""
    form = Form.sent()
    old, new = (str(form.values.get(name, "")) for name in ("old", "new"))
    try:
        if new != form.values.get("again"):
            raise InvalidInput("The new passwords do not match. Type the same password twice.", field="again")
        auth.change_password(old, new)
    except InvalidInput as error:
        form.refuse(error, otherwise="old")
        # never send a password back to the browser
        form.values.clear()
        return _page(FormFeedback(password=form, status=error.http_status))
    flash("Password changed. All other browsers are logged out; your tokens stay valid.", "success")
    return redirect(url_for("pages.account"))


@pages.post("/account/browsers/<uuid:login_id>/end")
def end_login(login_id: UUID) -> ResponseReturnValue:
    """Log out one browser, which may be this one."""
    with transaction(services().sessions) as session:
        user = current_actor()
        logins.end(session, user.id, login_id)
        record(session, Action.SESSIONS_ENDED, target=user.name, target_id=user.id, sessions=1)
    flash("Browser logged out.", "success")
    return redirect(url_for("pages.account"))


@pages.post("/account/browsers/end")
def end_other_logins() -> ResponseReturnValue:
    """Log out every other browser."""
    with transaction(services().sessions) as session:
        user = current_actor()
        ended = logins.end_all(session, user.id, but=current_login())
        if ended:
            record(session, Action.SESSIONS_ENDED, target=user.name, target_id=user.id, sessions=ended)
    flash("All other browsers are logged out.", "success")
    return redirect(url_for("pages.account"))


@pages.post("/account/tokens")
def create_token() -> ResponseReturnValue:
    """Create a token; only this response shows its secret."""
    form = Form.sent()
    try:
        scope, days = _scope(form), _days(form)
        with transaction(services().sessions) as session:
            token, secret = tokens.issue(
                session, token_key(), current_actor(), form.text("name"), scope=scope, days=days
            )
            record(session, Action.TOKEN_CREATED, target=token.name, target_id=token.id, scope=scope.value, days=days)
    except RetllmError as error:
        form.refuse(error, otherwise="name")
        return _page(FormFeedback(token=form, status=error.http_status))
    return _page(FormFeedback(made=secret))


def _scope(form: Form) -> TokenScope:
    try:
        return TokenScope(form.text("scope") or tokens.DEFAULT_SCOPE)
    except ValueError:
        raise InvalidInput("Choose a scope for the token.", field="scope") from None


def _days(form: Form) -> int | None:
    """Return for how many days the token is valid; None: until it is revoked."""
    chosen = form.text("days") or str(tokens.DEFAULT_DAYS)
    if chosen not in DAYS:
        raise InvalidInput("Choose how long the token is valid.", field="days")
    return None if chosen == "never" else int(chosen)


@pages.post("/account/tokens/<uuid:token_id>/revoke")
def revoke_token(token_id: UUID) -> ResponseReturnValue:
    """Revoke a token."""
    here = url_for("pages.account")
    try:
        with transaction(services().sessions) as session:
            ended = tokens.revoke(session, current_actor(), token_id)
            record(session, Action.TOKEN_REVOKED, target=ended.name, target_id=ended.id)
    except RetllmError as error:
        return refused(error, here)
    flash("Token revoked. Requests that use it are now rejected.", "success")
    return redirect(here)
