"""Hooks around every request: its id, its log line, and the security headers of its response."""

from __future__ import annotations

import re
import time
import uuid

import structlog
from flask import Flask, Response, g, request

log = structlog.get_logger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,100}")

# Load everything from this server; pictures may also be data: (icons in Bootstrap's CSS) or blob: (previews of files
# before the upload). No inline scripts or styles, so that uploaded text can never run.
PAGE_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
# uploaded pictures, opened directly in a tab
MEDIA_POLICY = "default-src 'none'; sandbox"

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # not no-referrer: the CSRF check over HTTPS reads the Referer
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Content-Security-Policy": PAGE_POLICY,
}
# HSTS for a year
_HTTPS_ONLY = "max-age=31536000"
_QUIET = ("/healthz", "/readyz", "/metrics", "/static/")


def install(app: Flask) -> None:
    """Register the hooks on ``app``."""
    app.before_request(_begin)
    app.after_request(_finish)
    app.teardown_request(lambda _error: structlog.contextvars.clear_contextvars())


def _begin() -> None:
    given = request.headers.get("X-Request-ID", "")
    # a client's id goes into logs and headers, so accept only safe characters
    g.request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
    g.began = time.monotonic()
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=g.request_id)


def _finish(response: Response) -> Response:
    response.headers["X-Request-ID"] = g.get("request_id", "")
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    if request.is_secure:
        response.headers["Strict-Transport-Security"] = _HTTPS_ONLY
    # by default no cache stores a response; static files and pictures set their own policy
    response.headers.setdefault(
        "Cache-Control", "no-store" if request.path.startswith("/api/") else "private, no-store"
    )
    if not request.path.startswith(_QUIET):
        log.info(
            "request",
            method=request.method,
            path=request.path,
            status=response.status_code,
            seconds=round(time.monotonic() - g.get("began", time.monotonic()), 4),
        )
    return response
