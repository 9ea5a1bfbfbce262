"""The account page: one's own password, the browsers that are logged in, and bearer tokens for programs."""

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
from retllm_web.actions.auditing import note
from retllm_web.http import auth
from retllm_web.http.agents import browser_of
from retllm_web.http.auth import current_actor, current_login, token_key
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages, refused
from retllm_web.pages.forms import Form

SCOPES = {
    # label, what a program may do with it
    TokenScope.READ: ("Read", "looks and exports; changes nothing"),
    TokenScope.SEARCH: ("Search", "also asks and reviews"),
    TokenScope.CHANGE: ("Change", "also makes collections, uploads, indexes and deletes items"),
    TokenScope.MANAGE: ("Manage", "all that you may: also members, queues, people and tokens; deletes collections"),
}
DAYS = {"7": "A week", "30": "30 days", "90": "90 days", "365": "A year", "never": "Until it is revoked"}


@dataclass
class FormFeedback:
    """What the forms of the page have to say; ``made`` is a new token."""

    token: Form = field(default_factory=Form)
    password: Form = field(default_factory=Form)
    made: str | None = None
    status: int = 200


@pages.app_context_processor
def _wording() -> dict[str, object]:
    return {"SCOPES": SCOPES, "browser_of": browser_of}


@pages.app_template_filter("in_days")
def in_days(moment: datetime) -> str:
    """How long until a moment to come."""
    hours = (moment - datetime.now(UTC)).total_seconds() / 3600
    if hours < 1:
        return "within the hour"
    # what was made for 90 days just now reads so
    count, name = (round(hours / 24), "day") if hours >= 24 else (int(hours), "hour")
    return f"in {count} {name}{'' if count == 1 else 's'}"


def _page(feedback: FormFeedback) -> ResponseReturnValue:
    with transaction(services().sessions) as session:
        own = tokens.in_force(session, current_actor().user)
        browsers = logins.lasting(session, current_actor().user, auth.idle())
    feedback.token.values = {"scope": tokens.DEFAULT_SCOPE.value, "days": str(tokens.DEFAULT_DAYS)} | feedback.token.values
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
    """Who is logged in, where, and their tokens."""
    return _page(FormFeedback())


@pages.post("/account/password")
def change_password() -> ResponseReturnValue:
    """Change one's own password; this browser stays logged in, every other one does not."""
    form = Form.sent()
    old, new = (str(form.values.get(name, "")) for name in ("old", "new"))
    try:
        if new != form.values.get("again"):
            raise InvalidInput("The two new passwords differ: type the same one twice.", field="again")
        auth.change_password(old, new)
    except InvalidInput as error:
        form.refuse(error, otherwise="old")
        # no password goes back to the browser
        form.values.clear()
        return _page(FormFeedback(password=form, status=error.http_status))
    flash("Your password is changed. Every other browser is logged out; your tokens go on.", "success")
    return redirect(url_for("pages.account"))


@pages.post("/account/browsers/<uuid:login_id>/end")
def end_login(login_id: UUID) -> ResponseReturnValue:
    """Log another browser out, or this one."""
    with transaction(services().sessions) as session:
        user = current_actor()
        logins.end(session, user.id, login_id)
        note(session, Action.SESSIONS_ENDED, target=user.name, target_id=user.id, sessions=1)
    flash("That browser is logged out.", "success")
    return redirect(url_for("pages.account"))


@pages.post("/account/browsers/end")
def end_other_logins() -> ResponseReturnValue:
    """Log every other browser out."""
    with transaction(services().sessions) as session:
        user = current_actor()
        ended = logins.end_all(session, user.id, but=current_login())
        if ended:
            note(session, Action.SESSIONS_ENDED, target=user.name, target_id=user.id, sessions=ended)
    flash("Every other browser is logged out.", "success")
    return redirect(url_for("pages.account"))


@pages.post("/account/tokens")
def create_token() -> ResponseReturnValue:
    """Make a token; this answer is the one place where it is shown."""
    form = Form.sent()
    try:
        scope, days = _scope(form), _days(form)
        with transaction(services().sessions) as session:
            token, secret = tokens.issue(
                session, token_key(), current_actor(), form.text("name"), scope=scope, days=days
            )
            note(session, Action.TOKEN_CREATED, target=token.name, target_id=token.id, scope=scope.value, days=days)
    except RetllmError as error:
        form.refuse(error, otherwise="name")
        return _page(FormFeedback(token=form, status=error.http_status))
    return _page(FormFeedback(made=secret))


def _scope(form: Form) -> TokenScope:
    try:
        return TokenScope(form.text("scope") or tokens.DEFAULT_SCOPE)
    except ValueError:
        raise InvalidInput("Choose what the token may do.", field="scope") from None


def _days(form: Form) -> int | None:
    """For how many days the token shall work; None: until it is revoked."""
    chosen = form.text("days") or str(tokens.DEFAULT_DAYS)
    if chosen not in DAYS:
        raise InvalidInput("Choose how long the token shall work.", field="days")
    return None if chosen == "never" else int(chosen)


@pages.post("/account/tokens/<uuid:token_id>/revoke")
def revoke_token(token_id: UUID) -> ResponseReturnValue:
    """End a token."""
    here = url_for("pages.account")
    try:
        with transaction(services().sessions) as session:
            ended = tokens.revoke(session, current_actor(), token_id)
            note(session, Action.TOKEN_REVOKED, target=ended.name, target_id=ended.id)
    except RetllmError as error:
        return refused(error, here)
    flash("The token is revoked: programs that use it are refused from now on.", "success")
    return redirect(here)
