"""The secret key for sessions and token digests: from the settings, or generated once in RETLLM_HOME."""

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
# random keys have more different characters, even in hexadecimal
_MIN_DIFFERENT = 8
# placeholders in examples and templates, reduced to letters and digits
_PLACEHOLDERS = re.compile(
    "changeme|changethis|changeit|replaceme|replacethis|yoursecret|secretkey|supersecret|topsecret|mysecret|notsecret"
    "|password|passphrase|insecure|unsafe|example|default|placeholder|donotuse|developmentkey|devkey|testkey|flask"
    "|django|retllm|0123456789abcdef|abcdefghijklmnop"
)
# published in manuals
_PUBLISHED = ("192b9bdd22ab9ed4d12e236c78afcb9a393ec15f71bbf5dc987d54727823bcbf",)
_BYTES = 32
# how long to wait for another process that has created the file, but not written it yet
_TIMEOUT_SECONDS = 2.0
_ADVICE = "set it to the output of `openssl rand -hex 32`, or unset it to use a generated key in RETLLM_HOME"


def secret_key(settings: Settings) -> str:
    """Return the secret key; the first process of a home generates it in a file that only the owner can read.

    Raises:
        StackError: the key of the settings is empty or easy to guess, or the file cannot be created or read.
    """
    if settings.secret_key is not None:
        return _checked(settings.secret_key)
    path = key_path(settings)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        key = _create(path) or _read(path)
    except OSError as error:
        raise StackError(
            f"Cannot store the secret key in {path} ({error.strerror}): make the folder writable, "
            "or set RETLLM_SECRET_KEY."
        ) from error
    remember(key)
    return key


def key_path(settings: Settings) -> Path:
    """Return the path of the generated key."""
    return settings.home_path / "secret_key"


def derived(secret: str, purpose: str) -> bytes:
    """Derive a key for one purpose; it reveals neither the secret key nor the keys for other purposes."""
    return hmac.digest(secret.encode(), f"retllm {purpose}".encode(), hashlib.sha256)


def _checked(key: str) -> str:
    """Return ``key`` if it is hard to guess; errors do not contain the key."""
    plain = re.sub("[^a-z0-9]", "", key.lower())
    problem = None
    if not key.strip():
        problem = "RETLLM_SECRET_KEY is set and empty"
    elif len(key) < MIN_CHARACTERS:
        problem = f"RETLLM_SECRET_KEY has fewer than {MIN_CHARACTERS} characters"
    elif len(set(key)) < _MIN_DIFFERENT or key in (key * 2)[1:-1]:
        problem = "RETLLM_SECRET_KEY is repetitive"
    elif _PLACEHOLDERS.search(plain) or plain in _PUBLISHED:
        problem = "RETLLM_SECRET_KEY is a well-known value"
    if problem:
        raise StackError(f"{problem}, so others could forge sessions: {_ADVICE}.")
    return key


def _create(path: Path) -> str | None:
    """Create a key; return None if the file exists already, perhaps created by another process."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return None
    key = secrets.token_hex(_BYTES)
    with os.fdopen(handle, "w") as file:
        file.write(key)
    return key


def _read(path: Path) -> str:
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while True:
        key = path.read_text().strip()
        if len(key) >= 2 * _BYTES:
            return key
        if time.monotonic() > deadline:
            raise StackError(f"The secret key in {path} is too short. Delete the file and start again.")
        time.sleep(0.05)
