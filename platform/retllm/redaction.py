"""Redaction of secrets in logs, errors, stored failures and the output of the command line, by :func:`redact`.

It replaces the secrets of the settings, the values of environment variables with names such as ``API_KEY``, and
everything that looks like a secret: passwords in URLs, API tokens.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, quote_plus, unquote

HIDDEN = "***"
# a shorter secret may be part of ordinary words, and redacting these would reveal it
_MIN_CHARACTERS = 8

_NAMES = re.compile(
    r"(?:PASSWORD|PASSWD|SECRET|TOKEN|SECRET_KEY|ACCESS_KEY|API_KEY|SCORER_KEY|CREDENTIALS?)$", re.IGNORECASE
)
# up to the last "@" before whitespace, since a password in a URL may contain "@"
_USERINFO = re.compile(r"://([^\s:/@'\"]*):(.+)@")
_PATTERNS = (
    # messages show the form postgresql://user:password@host
    (re.compile(r"(://[^\s:/@'\"<>]*:)(?!password@)[^\s/@'\"<>]+@"), rf"\1{HIDDEN}@"),
    (
        re.compile(r"([?&;][\w.-]*(?:password|passwd|secret|token|credential)[\w.-]*=)[^\s&;'\"<>]+", re.I),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"(\bpassword=)[^\s'\"]+"), rf"\1{HIDDEN}"),
    (re.compile(r"(\bbearer\s+)(?!token\b)[\w.~+/=-]{8,}", re.IGNORECASE), rf"\1{HIDDEN}"),
    # tokens, and links that open something without an account
    (re.compile(r"\b(rl[lm]_)[\w-]{8,}"), rf"\1{HIDDEN}"),
)

_known: set[str] = set()


def remember(*secrets: str | None) -> None:
    """Redact these secrets from now on."""
    for secret in filter(None, secrets):
        _known.update(form for form in _forms(secret) if len(form) >= _MIN_CHARACTERS)


def _forms(secret: str) -> set[str]:
    """Return a secret as programs quote it: in URLs, JSON, HTML and headers."""
    plain, in_json = {secret, unquote(secret)}, json.dumps(secret)[1:-1]
    forms = plain | {in_json, in_json.replace("/", "\\/"), html.escape(secret), html.escape(secret, quote=False)}
    # some programs escape in JSON what means something in HTML
    forms.add(re.sub("[<>&'+=/]", lambda found: f"\\u{ord(found[0]):04x}", in_json))
    forms.add(re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", in_json))
    forms |= {quoted(secret, safe=safe) for quoted in (quote, quote_plus) for safe in ("", "/")}
    encoded = {encode(secret.encode()).decode() for encode in (base64.b64encode, base64.urlsafe_b64encode)}
    return forms | {form.rstrip("=") for form in encoded}


def remember_addresses(*addresses: str | None) -> None:
    """Redact the passwords in these URLs from now on."""
    for address in filter(None, addresses):
        match = _USERINFO.search(address)
        if match is not None:
            remember(match[2])


def remember_environment(environment: Mapping[str, str]) -> None:
    """Redact environment variables whose names denote secrets, and the passwords of URLs in the others."""
    for name, value in environment.items():
        if "://" in value:
            remember_addresses(value)
        elif _NAMES.search(name):
            remember(value)


def redact(text: str) -> str:
    """Return ``text`` with ``***`` in place of every secret."""
    text = hide_known(text)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def hide_known(text: str) -> str:
    """Return ``text`` with ``***`` in place of the secrets of :func:`remember`, however long the text is."""
    # longest first: a secret may be part of another
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def redact_within(value: Any) -> Any:
    """Redact every string in nested lists, tuples and mappings; return other values unchanged."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: redact_within(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_each(value)) if type(value) in (list, tuple) else value
    return value


def _each(values: Iterable[Any]) -> list[Any]:
    return [redact_within(value) for value in values]


remember_environment(os.environ)
