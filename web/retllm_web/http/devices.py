"""Browsers that somebody logged in with: their attempts are counted apart, so that nobody else uses them up.

A signed cookie names the browser, and the accounts that logged in with it, as digests.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import timedelta
from typing import Any

from flask import Response, after_this_request, current_app, request
from itsdangerous import BadSignature, URLSafeTimedSerializer

from retllm.identity import names
from retllm.identity.secret_key import derived

COOKIE = "retllm_device"
_KNOWN_FOR = timedelta(days=90)
# accounts of one browser; the oldest one is forgotten
_MAX_ACCOUNTS = 5
_DIGEST_BYTES = 12


def known(name: str) -> str | None:
    """Return the key of the browser of this request if the account of this name logged in with it lately."""
    key, names = _read()
    return key if key and _digest(name) in names else None


def remember(name: str) -> None:
    """Let the response tell the browser that the account of this name logged in with it."""
    key, names = _read()
    mine = _digest(name)
    names = [*(one for one in names if one != mine), mine][-_MAX_ACCOUNTS:]
    value = _serializer().dumps([key or secrets.token_urlsafe(9), names])

    @after_this_request
    def _set(response: Response) -> Response:
        response.set_cookie(
            COOKIE,
            value,
            max_age=_KNOWN_FOR,
            httponly=True,
            samesite="Lax",
            secure=bool(current_app.config["SESSION_COOKIE_SECURE"]),
        )
        return response


def _read() -> tuple[str | None, list[str]]:
    try:
        found: Any = _serializer().loads(request.cookies.get(COOKIE, ""), max_age=int(_KNOWN_FOR.total_seconds()))
        key, names = found
    except (BadSignature, TypeError, ValueError):
        return None, []
    return str(key), list(names)


def _serializer() -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(_key(), salt="devices")


def _key() -> bytes:
    return derived(str(current_app.config["SECRET_KEY"]), "known browsers")


def _digest(name: str) -> str:
    return hmac.digest(_key(), names.same(name.strip()).encode(), hashlib.sha256)[:_DIGEST_BYTES].hex()
