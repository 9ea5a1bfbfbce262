"""Logging in and out."""

from __future__ import annotations

import flask_login
from flask import flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from retllm.errors import Unauthorized
from retllm_web.auth import LOGIN_LIMIT, limiter, log_in, log_out
from retllm_web.pages.blueprint import local_path, pages


@pages.route("/login", methods=["GET", "POST"])
@limiter.limit(LOGIN_LIMIT, methods=["POST"])
def login() -> ResponseReturnValue:
    """The form to log in, and the log-in itself."""
    target = local_path(request.values.get("next"))
    if request.method == "GET":
        if flask_login.current_user.is_authenticated:
            return redirect(target or url_for("pages.overview"))
        return render_template("login.html", next=target, name="", error=None)
    name = request.form.get("name", "").strip()
    try:
        if "\0" in name:
            raise Unauthorized("That name and password do not fit.")
        log_in(name, request.form.get("password", ""))
    except Unauthorized as error:
        return render_template("login.html", next=target, name=name, error=error.message), 401
    return redirect(target or url_for("pages.overview"))


@pages.post("/logout")
def logout() -> ResponseReturnValue:
    """End the session."""
    log_out()
    flash("You are logged out.", "success")
    return redirect(url_for("pages.login"))
