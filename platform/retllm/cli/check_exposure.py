"""The checks of `retllm doctor` for the secret key and the session cookie."""

from __future__ import annotations

import ipaddress
import stat

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from retllm.identity.secret_key import key_path, secret_key
from retllm.settings import Settings


def inspect_secret_key(settings: Settings) -> tuple[str, str]:
    """Check the secret key; return the finding and the advice, which is empty if all is well.

    Raises:
        StackError: the key of the settings is too weak, or that of the file can't be used.
    """
    path = key_path(settings)
    if settings.secret_key is not None:
        secret_key(settings)
        return "RETLLM_SECRET_KEY is set and signs sessions and tokens.", ""
    if settings.database_url and not _is_local(_host_of(settings.database_url)):
        return (
            f"The secret key is the one in {path}; other hosts with the same database have different keys.",
            "Set the same RETLLM_SECRET_KEY on every host; otherwise sessions and tokens are valid on one host only.",
        )
    if not path.exists():
        return f"The first start generates the secret key and stores it in {path}.", ""
    secret_key(settings)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        return f"Other accounts of this machine can read the secret key in {path}.", f"Run `chmod 600 {path}`."
    return f"The secret key is stored in {path}.", ""


def inspect_cookies(settings: Settings) -> tuple[str, str]:
    """Check how the session cookie is sent; return the finding and the advice."""
    exposed = not _is_local(settings.host) or settings.proxies > 0
    if not exposed:
        return f"The web server listens on {settings.host}, which only this machine can reach.", ""
    if not settings.secure_cookies:
        return (
            "The web server is reachable from other machines, and passwords and cookies may be sent over plain HTTP.",
            "Put a reverse proxy with TLS in front, and set RETLLM_SECURE_COOKIES=true and RETLLM_PROXIES=1.",
        )
    if not settings.proxies:
        return (
            "The session cookie is sent over HTTPS only, but RETLLM_PROXIES is 0: the limit on wrong passwords counts "
            "all clients behind the reverse proxy as one address.",
            "Set RETLLM_PROXIES to the number of reverse proxies in front of the web server.",
        )
    return (
        "A web server with these settings sends the session cookie over HTTPS only; trusted reverse proxies: "
        f"{settings.proxies}.",
        "",
    )


def _host_of(database_url: str) -> str | None:
    try:
        return make_url(database_url).host
    except ArgumentError:
        # the check of the database reports this
        return None


def _is_local(host: str | None) -> bool:
    """Return whether the host is this machine; a path is a socket."""
    if not host or host == "localhost" or host.startswith("/"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
