"""What Gunicorn answers by itself, to requests that it can't read: with security headers too, and not as HTML.

It offers no setting for either, so its own function and name are replaced, within the web server's process alone.
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
    """Let every answer of this process have these headers, and say no more of the server than its name."""
    gunicorn.http.wsgi.SERVER = NAME
    gunicorn.util.write_error = _write_error


def _write_error(client: socket.socket, status: int, reason: str, _: str) -> None:
    """The error of a request that can't be read; what was wrong with it is for the log, not to be echoed."""
    try:
        said = HTTPStatus(status).phrase
    except ValueError:
        said = reason
    body = f"{status} {said}\n"
    head = "".join(f"{name}: {value}\r\n" for name, value in _HEADERS.items())
    answer = f"HTTP/1.1 {status} {said}\r\n{head}Content-Length: {len(body)}\r\n\r\n{body}"
    gunicorn.util.write_nonblock(client, answer.encode("latin1"))
