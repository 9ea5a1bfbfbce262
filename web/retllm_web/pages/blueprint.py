"""The blueprint that every page hangs on: who may see it, and how errors of actions are told."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit
from uuid import UUID

import flask_login
from flask import Blueprint, Response, current_app, flash, redirect, request, url_for
from flask.typing import ResponseReturnValue
from flask_wtf.csrf import CSRFError

from retllm.errors import Forbidden, NotFound, RetllmError
from retllm_web.http.errors import forged
from retllm_web.http.visibility import require_visible

pages = Blueprint("pages", __name__)

OPEN_TO_ALL = {"pages.login"}


@pages.before_request
def _require_login() -> ResponseReturnValue | None:
    if request.endpoint in OPEN_TO_ALL or flask_login.current_user.is_authenticated:
        return None
    # a script that asks for a piece of a page can do nothing with the page to log in
    if wants_piece():
        return Response("Log in again.", status=401, mimetype="text/plain")
    if request.method in ("GET", "HEAD"):
        return redirect(url_for("pages.login", next=request.full_path.rstrip("?")))
    if request.endpoint != "pages.logout":
        flash("You were logged out meanwhile, so nothing was done. Log in, then do it once more.", "warning")
    return redirect(url_for("pages.login", next=_came_from()))


@pages.errorhandler(CSRFError)
def _forged(error: CSRFError) -> ResponseReturnValue:
    # the log-out in another tab took the session along that the form's token was of
    return _require_login() or forged(error)


def _came_from() -> str | None:
    """The page of this server whose form was sent, if the browser tells."""
    parts = urlsplit(request.referrer or "")
    if parts.netloc != request.host:
        return None
    return local_path(f"{parts.path}?{parts.query}" if parts.query else parts.path)


@pages.before_request
def _require_visible() -> ResponseReturnValue | None:
    if request.method != "POST" or request.endpoint in OPEN_TO_ALL:
        return None
    try:
        require_visible()
    except NotFound as error:
        if not wants_piece():
            raise
        return Response(error.message, status=error.http_status, mimetype="text/plain")
    return None


@pages.after_request
def _private(response: Response) -> Response:
    # what an account saw must not come out of the cache after it logged out
    if "Cache-Control" not in response.headers:
        response.headers["Cache-Control"] = "private, no-store"
    return response


def wants_piece() -> bool:
    """Whether a script of ours asks, which takes a piece of HTML and no whole page."""
    return request.headers.get("X-Requested-With") == "fetch"


def local_path(target: str | None) -> str | None:
    """``target`` if it is a path on this server, else None: a link must not lead elsewhere after the login."""
    if not target or not target.startswith("/") or target.startswith("//") or "\\" in target:
        return None
    parts = urlsplit(target)
    if parts.scheme or parts.netloc or any(ord(c) < 0x20 for c in target):
        return None
    return target


def refused(error: RetllmError, back: str) -> ResponseReturnValue:
    """Say on the page ``back`` why an action was not done; what is not there stays a 404, what is not allowed a 403."""
    if isinstance(error, NotFound | Forbidden) or error.http_status >= 500:
        raise error
    flash(error.message, "danger")
    return redirect(back)


def picture_url(item_id: UUID, which: Literal["thumbnail", "rendition", "picture"] = "thumbnail") -> str:
    """Where an item's picture is; the API serves it to whoever is logged in. The ``picture`` as it came is to save."""
    return str(current_app.config.get("APPLICATION_ROOT", "/")).rstrip("/") + f"/api/v1/items/{item_id}/{which}"
