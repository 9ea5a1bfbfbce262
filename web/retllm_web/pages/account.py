"""The account page: bearer tokens for programs."""

from __future__ import annotations

from uuid import UUID

from flask import flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from retllm import accounts
from retllm.db.session import transaction
from retllm.errors import RetllmError
from retllm_web.auth import current_user
from retllm_web.pages.blueprint import pages, refused
from retllm_web.pages.forms import Form
from retllm_web.services import services


def _page(form: Form, made: str | None = None, status: int = 200) -> ResponseReturnValue:
    with transaction(services().sessions) as session:
        tokens = accounts.list_tokens(session, current_user())
    address = request.url_root.rstrip("/")
    return render_template("account.html", tokens=tokens, form=form, made=made, address=address), status


@pages.get("/account")
def account() -> ResponseReturnValue:
    """Who is logged in, and their tokens."""
    return _page(Form())


@pages.post("/account/tokens")
def create_token() -> ResponseReturnValue:
    """Make a token; this answer is the one place where it is shown."""
    form = Form.sent()
    try:
        with transaction(services().sessions) as session:
            made = accounts.issue_token(session, current_user(), form.text("name"))
    except RetllmError as error:
        form.refuse(error, otherwise="name")
        return _page(form, status=error.http_status)
    return _page(Form(), made=made)


@pages.post("/account/tokens/<uuid:token_id>/revoke")
def revoke_token(token_id: UUID) -> ResponseReturnValue:
    """End a token."""
    here = url_for("pages.account")
    try:
        with transaction(services().sessions) as session:
            accounts.revoke_token(session, current_user(), token_id)
    except RetllmError as error:
        return refused(error, here)
    flash("The token is revoked: programs that use it are refused from now on.", "success")
    return redirect(here)
