"""Secrets are not told: what logs, errors, stored failures and the command line say goes through :func:`hidden`.

Known are the secrets of the settings, and those of the environment by their names; whatever looks like a secret (the
password of an address, a token of the API) is hidden too, known or not.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, unquote

HIDDEN = "***"
# a shorter one stands in ordinary words, and hiding it there would tell it
_MIN_CHARACTERS = 8

_NAMES = re.compile(r"(?:PASSWORD|PASSWD|SECRET|TOKEN|SECRET_KEY|ACCESS_KEY|API_KEY|CREDENTIALS?)$", re.IGNORECASE)
# up to the last "@" before a blank, since a password in an address may hold the others
_USERINFO = re.compile(r"://([^\s:/@'\"]*):(.+)@")
_PATTERNS = (
    # the word stands in advice: postgresql://user:password@host
    (re.compile(r"(://[^\s:/@'\"<>]*:)(?!password@)[^\s/@'\"<>]+@"), rf"\1{HIDDEN}@"),
    (
        re.compile(r"([?&;][\w.-]*(?:password|passwd|secret|token|credential)[\w.-]*=)[^\s&;'\"<>]+", re.I),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"(\bpassword=)[^\s'\"]+"), rf"\1{HIDDEN}"),
    (re.compile(r"(\bbearer\s+)(?!token\b)[\w.~+/=-]{8,}", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"\brlm_[\w-]{8,}"), f"rlm_{HIDDEN}"),
)

_known: set[str] = set()


def remember(*secrets: str | None) -> None:
    """Hide these from now on, wherever they stand."""
    for secret in filter(None, secrets):
        forms = {secret, unquote(secret), quote(secret, safe=""), json.dumps(secret)[1:-1]}
        _known.update(form for form in forms if len(form) >= _MIN_CHARACTERS)


def remember_addresses(*addresses: str | None) -> None:
    """Hide the passwords in these from now on, wherever they stand."""
    for address in filter(None, addresses):
        within = _USERINFO.search(address)
        if within is not None:
            remember(within[2])


def remember_environment(environment: Mapping[str, str]) -> None:
    """Hide what the environment holds under a name that secrets have, and the password of every address in it."""
    for name, value in environment.items():
        if "://" in value:
            remember_addresses(value)
        elif _NAMES.search(name):
            remember(value)


def redact(text: str) -> str:
    """``text`` with ``***`` in place of every secret."""
    # the longest first: one may be part of another
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    return text


def redact_within(value: Any) -> Any:
    """The same for every text inside lists, tuples and mappings; other values as they are."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: redact_within(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_each(value)) if type(value) in (list, tuple) else value
    return value


def _each(values: Iterable[Any]) -> list[Any]:
    return [redact_within(one) for one in values]


remember_environment(os.environ)
