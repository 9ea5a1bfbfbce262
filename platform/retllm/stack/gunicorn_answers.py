"""Gunicorn's own answers to malformed requests, with security headers and as plain text.

Gunicorn has no settings for this, so its function and server name are replaced in the process of the web server.
"""

from __future__ import annotations

import socket
from http import HTTPStatus

import gunicorn.http.wsgi
import gunicorn.util

NAME = "retllm"
_HEADERS = {
    "Server": NAME,
    "Connection": "close",
    "Content-Type": "text/plain; charset=utf-8",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


def install() -> None:
    """Replace Gunicorn's error answers, and its name and version in the Server header, in this process."""
    gunicorn.http.wsgi.SERVER = NAME
    gunicorn.util.write_error = _write_error


def _write_error(client: socket.socket, status: int, reason: str, _: str) -> None:
    """Answer a malformed request without echoing details, which go to the log."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = reason
    body = f"{status} {phrase}\n"
    head = "".join(f"{name}: {value}\r\n" for name, value in _HEADERS.items())
    answer = f"HTTP/1.1 {status} {phrase}\r\n{head}Content-Length: {len(body)}\r\n\r\n{body}"
    gunicorn.util.write_nonblock(client, answer.encode("latin1"))
