"""Logging in and out."""

from __future__ import annotations

import flask_login
from flask import flash, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from retllm.errors import Busy, RetllmError, TooManyTries, Unauthorized
from retllm_web.http.auth import log_in, log_out
from retllm_web.pages.blueprint import local_path, pages


@pages.route("/login", methods=["GET", "POST"])
def login() -> ResponseReturnValue:
    """Show the log-in form, or log in."""
    target = local_path(request.values.get("next"))
    if request.method == "GET":
        if flask_login.current_user.is_authenticated:
            return redirect(target or url_for("pages.overview"))
        return render_template("login.html", next=target, name="", error=None)
    name = request.form.get("name", "").strip()
    try:
        # no account name contains NUL, and PostgreSQL rejects it in a query
        log_in(name.replace("\0", "\ufffd"), request.form.get("password", ""))
    except (Busy, Unauthorized, TooManyTries) as error:
        return _again(target, name, error)
    return redirect(target or url_for("pages.overview"))


def _again(target: str | None, name: str, error: RetllmError) -> ResponseReturnValue:
    page = render_template("login.html", next=target, name=name, error=error.message)
    answer = make_response(page, error.http_status)
    if "retry_after" in error.detail:
        answer.headers["Retry-After"] = str(error.detail["retry_after"])
    return answer


@pages.post("/logout")
def logout() -> ResponseReturnValue:
    """End the session."""
    log_out()
    flash("You are logged out.", "success")
    return redirect(url_for("pages.login"))
