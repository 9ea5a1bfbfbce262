"""The checks of `retllm doctor` on what others on the network could do: the secret key, and how cookies travel."""

from __future__ import annotations

import ipaddress
import stat

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from retllm.identity.secret_key import key_path, secret_key
from retllm.settings import Settings


def look_at_secret_key(settings: Settings) -> tuple[str, str]:
    """What there is to say of the secret key, and what to do; nothing to do where that is empty.

    Raises:
        StackError: the key of the settings can be guessed, or that of the file can't be used.
    """
    path = key_path(settings)
    if settings.secret_key is not None:
        secret_key(settings)
        return "The secret key of RETLLM_SECRET_KEY signs sessions and keys tokens.", ""
    if settings.database_url and not _is_here(_host_of(settings.database_url)):
        return (
            f"The secret key is the one in {path}, and other hosts that use the same database have keys of their own.",
            "Set the same RETLLM_SECRET_KEY on every host: a session or a token of one is worth nothing on another.",
        )
    if not path.exists():
        return f"The first start makes the secret key and keeps it in {path}.", ""
    secret_key(settings)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        return f"Other accounts of this machine can read the secret key in {path}.", f"Run `chmod 600 {path}`."
    return f"The secret key is kept in {path}.", ""


def look_at_cookies(settings: Settings) -> tuple[str, str]:
    """How the session cookie travels where others can listen, and what to do about it."""
    exposed = not _is_here(settings.host) or settings.proxies > 0
    if not exposed:
        return f"The web server listens on {settings.host}, which only this machine reaches.", ""
    if not settings.secure_cookies:
        return (
            "The web server can be reached from other machines, and passwords and cookies may go over plain HTTP.",
            "Put a reverse proxy with TLS in front, and set RETLLM_SECURE_COOKIES=true and RETLLM_PROXIES=1.",
        )
    if not settings.proxies:
        return (
            "The session cookie goes over HTTPS only, and RETLLM_PROXIES is 0: to the limit on wrong passwords, all "
            "that comes by the reverse proxy is one address.",
            "Set RETLLM_PROXIES to the number of reverse proxies in front of the web server.",
        )
    return f"The session cookie goes over HTTPS only; reverse proxies that are believed: {settings.proxies}.", ""


def _host_of(database_url: str) -> str | None:
    try:
        return make_url(database_url).host
    except ArgumentError:
        # the check of the database tells
        return None


def _is_here(host: str | None) -> bool:
    """Whether only this machine can be meant; a path stands for a socket."""
    if not host or host == "localhost" or host.startswith("/"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
