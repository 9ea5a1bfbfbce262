"""The blueprint of all pages: access checks, and how pages report the errors of actions."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import urlsplit
from uuid import UUID

import flask_login
from flask import Blueprint, Response, current_app, flash, redirect, request, url_for
from flask.typing import ResponseReturnValue
from flask_wtf.csrf import CSRFError
from werkzeug.exceptions import RequestEntityTooLarge

from retllm.errors import Forbidden, NotFound, RetllmError
from retllm_web.http import body_limits
from retllm_web.http.auth import csrf
from retllm_web.http.errors import forged
from retllm_web.http.visibility import require_role_of_route, require_visible

pages = Blueprint("pages", __name__)

OPEN_TO_ALL = {"pages.login"}

_SEARCHES = ("pages.search", "pages.search_anywhere")
# what of a question comes back after the log-in; settings and pictures do not
_QUESTION = ("collection", "text", "filter", "k", "like")
# servers and proxies refuse longer ones
_MAX_ADDRESS = 4000


@pages.before_request
def _require_login() -> ResponseReturnValue | None:
    if request.endpoint in OPEN_TO_ALL or flask_login.current_user.is_authenticated:
        return None
    # a script that requests a page fragment cannot use the log-in page
    if wants_fragment():
        return Response("Log in again.", status=401, mimetype="text/plain")
    if request.method in ("GET", "HEAD"):
        return redirect(_log_in_for(request.full_path.rstrip("?")) or url_for("pages.login"))
    asked = _question()
    if asked is not None:
        flash("You were logged out, so nothing was searched. Log in, and the question is there again.", "warning")
    elif request.endpoint != "pages.logout":
        flash("Nothing was changed because you were logged out. Log in and try again.", "warning")
    return redirect(asked or _log_in_for(_came_from()) or url_for("pages.login"))


@pages.errorhandler(CSRFError)
def _forged(error: CSRFError) -> ResponseReturnValue:
    # a log-out in another tab ended the session of the form's token
    return _require_login() or forged(error)


def _log_in_for(target: str | None) -> str | None:
    """Return the log-in page that leads on to a page; None if there is none, or its address would be too long."""
    # the target is written with an escape for each of its own escapes
    address = url_for("pages.login", next=target)
    return address if target and len(address) <= _MAX_ADDRESS else None


def _question() -> str | None:
    """Return the log-in page that leads to the question that was sent; None if none was, or it is too long."""
    if request.endpoint not in _SEARCHES:
        return None
    body_limits.restrict(known=False)
    try:
        kept = {name: request.form[name] for name in _QUESTION if request.form.get(name, "").strip()}
    except RequestEntityTooLarge:
        return None
    if not kept:
        return None
    collection = (request.view_args or {}).get("collection_id")
    return _log_in_for(url_for("pages.search_page", **kept | ({"collection": collection} if collection else {})))


def _came_from() -> str | None:
    """Return the page of this server whose form was sent, if the browser sends a referrer."""
    try:
        parts = urlsplit(request.referrer or "")
    except ValueError:
        return None
    if parts.netloc != request.host:
        return None
    return local_path(f"{parts.path}?{parts.query}" if parts.query else parts.path)


@pages.before_request
def _check() -> ResponseReturnValue | None:
    body_limits.restrict(known=flask_login.current_user.is_authenticated)
    try:
        require_role_of_route()
        if body_limits.is_large():
            # the token may be in the form
            require_visible()
        if current_app.config["WTF_CSRF_ENABLED"]:
            csrf.protect()
        if request.method == "POST" and request.endpoint not in OPEN_TO_ALL and not body_limits.is_large():
            require_visible()
    except (NotFound, Forbidden) as error:
        if not wants_fragment():
            raise
        return Response(error.message, status=error.http_status, mimetype="text/plain")
    return None


@pages.after_request
def _private(response: Response) -> Response:
    # a browser's cache must not show pages after the log-out
    if "Cache-Control" not in response.headers:
        response.headers["Cache-Control"] = "private, no-store"
    return response


def wants_fragment() -> bool:
    """Return whether one of the page's own scripts requests an HTML fragment."""
    return request.headers.get("X-Requested-With") == "fetch"


def local_path(target: str | None) -> str | None:
    """Return ``target`` if it is a path on this server, else None, so that a log-in redirects to no other site."""
    if not target or not target.startswith("/") or target.startswith("//") or "\\" in target:
        return None
    parts = urlsplit(target)
    if parts.scheme or parts.netloc or any(ord(c) < 0x20 for c in target):
        return None
    return target


def refused(error: RetllmError, back: str) -> ResponseReturnValue:
    """Redirect to ``back`` with the error's message; errors 403, 404 and 5xx are raised again."""
    if isinstance(error, NotFound | Forbidden) or error.http_status >= 500:
        raise error
    flash(error.message, "danger")
    return redirect(back)


def is_visit() -> bool:
    """Return whether this request follows a link, without an account: its pages lead to nothing but what it opens."""
    return request.blueprint == "shared"


def item_url(item_id: UUID, **kept: Any) -> str:
    """Return the address of an item's page, for this account or this visitor; ``kept`` says where one came from."""
    return url_for("shared.item", item_id=item_id) if is_visit() else url_for("pages.item", item_id=item_id, **kept)


def picture_url(item_id: UUID, which: Literal["thumbnail", "rendition", "picture", "source"] = "thumbnail") -> str:
    """Return the address of an item's picture, for this account or this visitor.

    ``picture`` is the original, ``source`` the whole file.
    """
    if is_visit():
        return url_for(f"shared.{which}", item_id=item_id)
    return str(current_app.config.get("APPLICATION_ROOT", "/")).rstrip("/") + f"/api/v1/items/{item_id}/{which}"
