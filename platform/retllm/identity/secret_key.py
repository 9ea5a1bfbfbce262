"""The secret key, which signs sessions and keys digests of tokens: from the settings, or made once in RETLLM_HOME."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import time
from pathlib import Path

from retllm.errors import StackError
from retllm.redaction import remember
from retllm.settings import Settings

MIN_CHARACTERS = 32
# a key that is made by chance has more, in hexadecimal digits too
_MIN_DIFFERENT = 8
# what examples and templates have in place of a key, as letters and digits alone
_PLACEHOLDERS = re.compile(
    "changeme|changethis|changeit|replaceme|replacethis|yoursecret|secretkey|supersecret|topsecret|mysecret|notsecret"
    "|password|passphrase|insecure|unsafe|example|default|placeholder|donotuse|developmentkey|devkey|testkey|flask"
    "|django|retllm|0123456789abcdef|abcdefghijklmnop"
)
# published in manuals, and therefore tried first
_PUBLISHED = ("192b9bdd22ab9ed4d12e236c78afcb9a393ec15f71bbf5dc987d54727823bcbf",)
_BYTES = 32
# how long to wait for another process that has made the file and not yet written it
_PATIENCE_SECONDS = 2.0
_ADVICE = "set it to what `openssl rand -hex 32` prints, or unset it to have a key made and kept in RETLLM_HOME"


def secret_key(settings: Settings) -> str:
    """The key in force; the first process of a home makes it, with only its owner able to read it.

    Raises:
        StackError: the key of the settings is empty or can be guessed, or the file can't be made or read.
    """
    if settings.secret_key is not None:
        return _checked(settings.secret_key)
    path = key_path(settings)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        key = _made(path) or _read(path)
    except OSError as error:
        raise StackError(
            f"The secret key can't be kept in {path} ({error.strerror}): make the folder writable, "
            "or set RETLLM_SECRET_KEY."
        ) from error
    remember(key)
    return key


def key_path(settings: Settings) -> Path:
    """Where a key that is made here is kept."""
    return settings.home_path / "secret_key"


def derived(secret: str, purpose: str) -> bytes:
    """A key for one purpose alone, from which neither the secret key nor that of another purpose follows."""
    return hmac.digest(secret.encode(), f"retllm {purpose}".encode(), hashlib.sha256)


def _checked(key: str) -> str:
    """``key`` if nobody guesses it; what is wrong with it is told, the key is not."""
    plain = re.sub("[^a-z0-9]", "", key.lower())
    problem = None
    if not key.strip():
        problem = "RETLLM_SECRET_KEY is set and empty"
    elif len(key) < MIN_CHARACTERS:
        problem = f"RETLLM_SECRET_KEY has fewer than {MIN_CHARACTERS} characters"
    elif len(set(key)) < _MIN_DIFFERENT or key in (key * 2)[1:-1]:
        problem = "RETLLM_SECRET_KEY repeats itself"
    elif _PLACEHOLDERS.search(plain) or plain in _PUBLISHED:
        problem = "RETLLM_SECRET_KEY is a well-known one"
    if problem:
        raise StackError(f"{problem}, so that others could sign sessions of their own: {_ADVICE}.")
    return key


def _made(path: Path) -> str | None:
    """A new key, or None if the file is there already (another process may have been first)."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return None
    key = secrets.token_hex(_BYTES)
    with os.fdopen(handle, "w") as file:
        file.write(key)
    return key


def _read(path: Path) -> str:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        key = path.read_text().strip()
        if len(key) >= 2 * _BYTES:
            return key
        if time.monotonic() > deadline:
            raise StackError(f"The secret key in {path} is too short: delete that file and start again.")
        time.sleep(0.05)
